"""Training: ``fit`` and what it is handed."""
