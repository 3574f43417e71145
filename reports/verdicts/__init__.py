"""Verdicts of the gate, comparisons of two runs, and histories of several."""
