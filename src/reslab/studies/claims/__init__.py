"""What is said about residual networks, what its source says, and what we measured."""
