"""Parts of a tensor that are joined as they lay in it are that tensor: nothing has to be copied.

Attention hands back the gradients of queries, keys and values side by side. Where all three come of one product, whose
gradient is what they are joined to, that is there already.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph
from torch.fx.experimental.symbolic_shapes import statically_known_true

ATEN = torch.ops.aten
MOVES = frozenset([ATEN.permute.default, ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.view.default])
"""Whose results are the same numbers where they are."""


def rejoin(graph: Graph) -> None:
    """Has what joins parts of a tensor as they lay in it be a view of that tensor, in a graph of aten's operators."""
    for joined in graph.find_nodes(op="call_function", target=ATEN.cat.default):
        parts: Any = joined.args[0]
        dim: Any = joined.args[1] if len(joined.args) > 1 else 0
        split = _split(parts[0])
        if split is None or not _lie_in_order(parts, split, joined.meta["val"], dim):
            continue
        sizes = [size if isinstance(size, int) else -1 for size in joined.meta["val"].shape]
        if sizes.count(-1) > 1:
            continue
        with graph.inserting_before(joined):
            view = graph.call_function(ATEN.view.default, (split.args[0], sizes))
        view.meta = dict(joined.meta)
        joined.replace_all_uses_with(view)
        graph.erase_node(joined)


def _split(part: Any) -> Any:
    """What `part` is a part of, somehow turned."""
    while part.target in MOVES:
        part = part.args[0]
    source = part.args[0] if part.args else None
    return source if getattr(source, "target", None) is ATEN.split_with_sizes.default else None


def _lie_in_order(parts: Any, split: Any, joined: Tensor, dim: int) -> bool:
    """Whether these are all that was split, whose numbers lie in memory in the order of those of what is joined."""
    whole = split.args[0].meta["val"]
    if len(parts) != len(split.args[1]) or not _dense(joined) or not _dense(whole):
        return False
    place = whole.storage_offset()
    for part in parts:
        value = part.meta["val"]
        strides = zip(value.shape, value.stride(), joined.stride(), strict=True)
        if _split(part) is not split or not all(_is(size, 1) or _is(mine, its) for size, mine, its in strides):
            return False
        if not _is(value.storage_offset(), place):
            return False
        place = place + value.shape[dim] * joined.stride(dim)
    return True


def _dense(tensor: Tensor) -> bool:
    """Whether row after row lies in memory without gaps."""
    expected: Any = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if not (_is(size, 1) or _is(stride, expected)):
            return False
        expected = expected * size
    return True


def _is(one: Any, other: Any) -> bool:
    """Whether both numbers are the same, of whatever size the tensors are."""
    return bool(statically_known_true(one == other))
