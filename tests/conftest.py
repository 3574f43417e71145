"""Fixtures of the whole suite: the real assets, from the real cache, or a skip that says what is missing."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run beside each other, on small tensors

import pytest
from hypothesis import HealthCheck, settings

from bench.inputs import assets

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # how long an example takes is the machine's, and what else runs there


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also what a shorter test holds on a smaller scale")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: on a larger scale what another test holds; skipped without --slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skipped = pytest.mark.skip(reason="slow, and held on a smaller scale by another test: pytest --slow runs it")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skipped)


@pytest.fixture(scope="session")
def asset():
    """A function: name of an asset -> its folder; skips the test where the asset is neither cached nor to be had."""
    failed: dict[str, str] = {}

    def folder(name: str) -> Path:
        if name not in failed:
            try:
                return assets.fetch(name)
            except assets.AssetError as error:
                failed[name] = str(error)
        pytest.skip(failed[name])

    return folder


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Ctrl-C works in tests and in what they start, even where a shell started them in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
