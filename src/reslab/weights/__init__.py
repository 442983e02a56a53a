"""Weights from elsewhere: read safely, recognised, translated to our names, loaded whole or not at all."""
