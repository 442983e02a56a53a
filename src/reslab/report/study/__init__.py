"""The page of a study: its table of means, what it concludes, and its pictures."""
