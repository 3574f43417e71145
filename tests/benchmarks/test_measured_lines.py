"""Every line that a run measured, replayed: `pytest tests/benchmarks --gram-run runs/latest`."""

from bench.pytest_rows import replay


def test_step(benchmark, measured_row):
    replay(benchmark, measured_row)
