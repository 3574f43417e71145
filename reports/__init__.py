"""Renders a run directory: page, tables, figures. Reads `bench.results` only and imports without torch."""
