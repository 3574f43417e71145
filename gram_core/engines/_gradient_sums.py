"""Gradients of a step that several captured functions make together, where no graph's memory ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class GradientSums:
    """What backward passes leave in the `.grad` of `parameters`, summed over the functions of one step.

    A `.grad` that a graph makes is memory of its pool, which the next graph of the pool writes over. The sums are made
    here, outside of any, and have their places for good: every function adds to them what its passes made (`add`),
    inside its graph, and leaves no `.grad` behind, for a replay runs no Python that could see one.
    A parameter that has never had a gradient gets none, as in eager steps, so that no optimizer decays it.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        each_once = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}  # some are tied
        self._parameters = list(each_once.values())
        self._sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in self._parameters]
        self._met = [False] * len(self._parameters)

    @property
    def met(self) -> int:
        """Of how many parameters there has been a gradient: what graphs that read the sums are bound to."""
        return sum(self._met)

    def clear(self) -> None:
        """Begins a step."""
        if self._sums:
            torch._foreach_zero_(self._sums)

    def add(self) -> None:
        """Adds every `.grad` there is, and takes it away."""
        pairs = [(total, p.grad) for total, p in zip(self._sums, self._parameters, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_add_([total for total, _ in pairs], [gradient for _, gradient in pairs])
        for number, parameter in enumerate(self._parameters):
            self._met[number] |= parameter.grad is not None
            parameter.grad = None

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Within, the sums are the parameters' `.grad`."""
        for parameter, total, met in zip(self._parameters, self._sums, self._met, strict=True):
            parameter.grad = total if met else None
        yield
        for parameter in self._parameters:
            parameter.grad = None
