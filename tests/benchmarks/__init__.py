"""Rows for pytest-benchmark; not part of the suite, ask for this folder: `pytest tests/benchmarks`."""
