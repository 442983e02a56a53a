"""A run from start to end: train into a folder, describe it, open it again to evaluate and predict."""
