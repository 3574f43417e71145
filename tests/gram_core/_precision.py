"""Bounds on errors of bf16 gradients, taken from what the plain encoder's own bf16 errs by on the same machine.

Processors differ in how they multiply bf16 (AVX-512 BF16, AVX2, a GPU's tensor cores): no constant holds on all.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

MORE_ROUNDINGS = 10.0
"""How much further from float32 the packed pass may be than autocast. Autocast keeps sums of residuals and norms in
float32, where the packed pass stores them in bf16: up to 5.2 times the error on two processors and their AVX2 paths."""


def assert_as_close(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], autocast: Mapping[str, Tensor]
) -> None:
    """Gradients `found` in bf16 against `expected` in float32, by the errors of those under `autocast`.

    A parameter's own error, or, where that is small by luck, the error of the whole gradient on its norm.
    """
    errors = {name: float((autocast[name] - gradient).norm()) for name, gradient in expected.items()}
    whole = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    relative = sum(error**2 for error in errors.values()) ** 0.5 / whole
    assert 0 < relative < 0.05, "autocast itself is no yardstick here"
    for name, gradient in expected.items():
        bound = MORE_ROUNDINGS * max(errors[name], relative * float(gradient.norm()))
        assert float((found[name] - gradient).norm()) <= bound, name
