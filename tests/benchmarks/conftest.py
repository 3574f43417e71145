"""The plugin that turns a run's measurements into rows. Hooks by name: pytest takes no plugin list from this depth."""

from bench.pytest_rows import (
    pytest_addoption,
    pytest_benchmark_update_machine_info,
    pytest_configure,
    pytest_generate_tests,
)

__all__ = ["pytest_addoption", "pytest_benchmark_update_machine_info", "pytest_configure", "pytest_generate_tests"]
