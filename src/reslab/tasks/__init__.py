"""Tasks: what a network is trained for, as loss and metrics over its outputs."""
