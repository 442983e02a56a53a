"""Networks: one file a family, and ``catalog.py`` with the one dict of names."""
