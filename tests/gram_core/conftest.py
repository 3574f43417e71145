"""What several tests of the core ask for by name."""

import pytest

from gram_core.exactness import Float64Throughout


@pytest.fixture
def float64():
    """Encoders that compute parts in float32 whatever their weights are do not here."""
    with Float64Throughout():
        yield
