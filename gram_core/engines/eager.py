"""The eager engine: padded batches, one kernel launch after the other, as anyone would write it first."""

from typing import Any

from gram_core.protocols import Method
from gram_core.training import Training


def build(method: type, training: Training, settings: Any) -> Method:
    """The method as it is written."""
    return method(training, settings)
