"""How far two gradients, or two sets of parameters, lie apart.

Used by `gram-bench verify` and by the tests: relative error per parameter, and guards against passing on
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradients(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of every parameter's gradient, by module and parameter name; a parameter without one is left out."""
    return {
        f"{prefix}.{name}": parameter.grad.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of every parameter, by module and parameter name."""
    return {
        f"{prefix}.{name}": parameter.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def relative_errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """|found - expected| / scale per name, in float64.

    The scale is |expected|, but at least 1e-6 of the largest norm among them: a gradient that is zero in
    exact arithmetic (the key bias of an attention, say) has rounding noise only, and no relative error.
    Raises ValueError where the names differ: a parameter that has a gradient on one side only.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"only one side has {', '.join(sorted(found.keys() ^ expected.keys()))}")
    norms = {name: float(torch.linalg.vector_norm(value.double())) for name, value in expected.items()}
    floor = 1e-6 * max(norms.values(), default=0.0)
    return {
        name: _norm(found[name].double() - expected[name].double()) / max(norms[name], floor, 1e-300)
        for name in expected
    }


def total_norm(values: Iterable[Tensor]) -> float:
    """The Euclidean norm of all of them together, float64."""
    return sum(_norm(value.double()) ** 2 for value in values) ** 0.5


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value))
