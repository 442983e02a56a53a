"""The parts of a block: shortcuts, the junction that joins them to the branch, and stems."""
