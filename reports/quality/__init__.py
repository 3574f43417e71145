"""Renders training runs: quality against wall-clock, with the same look as the page of a measured run."""
