"""What the readings mean: one rule for each illness, with its number, threshold and basis, and what helps."""
