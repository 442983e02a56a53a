"""Other people's training loops, one module each, all with the same ``images_per_s``."""
