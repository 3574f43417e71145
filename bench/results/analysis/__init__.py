"""Derived numbers: statistics, frames, lines of runs, epochs. Loads without torch."""
