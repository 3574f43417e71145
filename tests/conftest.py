"""Fixtures of the whole suite: the real assets, from the real cache, or a skip that says what is missing."""

from pathlib import Path

import pytest

from bench import assets


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
