"""Probes: they look into a network while it computes, and change nothing."""
