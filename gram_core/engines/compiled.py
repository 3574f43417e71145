"""The fast engine with the CF module compiled as well: for CF steps that are many and small, as multi_step's are.

Its dozens of small operations become few; compiling them takes some seconds in every process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gram_core.engines import fast
from gram_core.engines._compiled_cf import CompiledCF
from gram_core.protocols import Method
from gram_core.training import Training


def build(method: type, training: Training, settings: Any) -> Method:
    """As `fast.build`; on a CPU it is that, for there the encoder's work is all that counts."""
    if training.device.type == "cuda":
        training = replace(training, cf_module=CompiledCF(training.cf_module))
    return fast.build(method, training, settings)
