"""reslab: a workbench for deep residual networks."""

__version__ = "0.1.0"
