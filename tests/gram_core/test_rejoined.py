"""What is joined as it lay is not copied; what is joined otherwise still is what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gram_core.encoders._rejoined import rejoin

SIZES = [4, 2, 2]
Join = Callable[[tuple[Tensor, ...]], Tensor]


def as_it_lay(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts, 1)


def turned_and_back(parts: tuple[Tensor, ...]) -> Tensor:
    """As gradients of heads come out of transposed layers: [1, T, A D]."""
    heads = [part.permute(1, 0, 2).unsqueeze(0).permute(0, 2, 1, 3) for part in parts]
    return torch.cat(heads, 2).flatten(2)


def flattened(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def out_of_order(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([parts[0], parts[2], parts[1]], 1)


def in_part(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts[:2], 1)


def twice(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([parts[0], parts[1], parts[1]], 1)


def along_columns(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([*parts[0].chunk(2, 1), *parts[1:]], 2)


def changed(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([parts[0], parts[1] * 2, parts[2]], 1)


def turned(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.permute(1, 0, 2) for part in parts], 0)


def two_of(parts: tuple[Tensor, ...]) -> Tensor:
    others = (torch.cat(parts, 1) * 2).split_with_sizes(SIZES, 1)
    return torch.cat([parts[0], others[1], parts[2]], 1)


COPIES = {out_of_order: 1, in_part: 1, twice: 1, along_columns: 1, changed: 1, turned: 1, two_of: 1}


@pytest.mark.parametrize("kind", ["fake", "symbolic"])
@pytest.mark.parametrize("join", [as_it_lay, turned_and_back, flattened, *COPIES])
def test_only_what_is_joined_as_it_lay_is_a_view(join: Join, kind: str) -> None:
    def function(whole: Tensor) -> Tensor:
        heads = whole.view(whole.shape[0], 8, 3)  # of a width that is known
        return join(torch.ops.aten.split_with_sizes.default(heads, SIZES, 1)) * 1

    whole = torch.arange(5 * 24, dtype=torch.float64).view(5, 24)
    traced = make_fx(function, tracing_mode=kind)(whole)
    rejoin(traced.graph)
    traced.graph.lint()
    traced.recompile()
    torch.testing.assert_close(traced(whole), function(whole), rtol=0, atol=0)
    left = len(traced.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default))
    assert left == COPIES.get(join, 0)
