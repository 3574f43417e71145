"""What tests of pages share."""

import pytest

from reports.figures import _style


@pytest.fixture(scope="session", autouse=True)
def _coarse_pictures():
    """A picture's dots decide nothing but its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_style, "DPI", 50)
        yield
