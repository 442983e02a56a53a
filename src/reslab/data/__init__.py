"""Data: where images come from, how they become tensors, and in which order they are served."""
