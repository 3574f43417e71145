"""Logs and texts that are drawn at random."""
