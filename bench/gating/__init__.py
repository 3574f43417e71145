"""Verdicts: a run against floors and references."""
