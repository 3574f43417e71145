"""Where a layer rotates queries and keys for our attention, attention is given them unrotated, and rotates them itself.

So what is rotated is not written to memory to be read again, and its gradient neither. Recognised is what transformers
writes as `x * cos + rotate_half(x) * sin`, by tables whose halves are one and the same, `cat((half, half))`. All else
is left as it is. The graph is that of a layer's Python calls, before autograd. T tokens packed, A heads, D head width.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from gram_core.kernels import text_attention

CASTS = frozenset(["to", "float", "double", "half", "bfloat16"])
SUMS = frozenset([operator.add, torch.add, "add"])
PRODUCTS = frozenset([operator.mul, torch.mul, "mul"])
NEGATIONS = frozenset([operator.neg, torch.neg, torch.negative, "neg", "negative"])
JOINS = frozenset([torch.cat, torch.concat, torch.concatenate])
IN_PLACE = frozenset([operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv])
UNROTATED = 11
"""Arguments of attention before cos and sin."""


class RotatingAttention(CustomGraphPass):
    """Gives attention the rotation of its queries and keys, wherever both are rotated alike."""

    def __call__(self, graph: Graph) -> None:
        """Rewrites a layer's graph."""
        if not any(map(_writes, graph.nodes)):  # else a tensor may not be later what it is now
            for node in graph.find_nodes(op="call_function", target=text_attention.OPERATOR):
                _rotate_within(graph, node)

    def uuid(self) -> str:
        """For torch's cache of compiled graphs."""
        return "gram_core rotates within attention, 1"


class _Unlike(Exception):
    """This is not rotated as we know it."""


def _rotate_within(graph: Graph, attention: Node) -> None:
    given: tuple[Any, ...] = attention.args
    (q, k, *others), rotation = given[:UNROTATED], given[UNROTATED:]
    if attention.kwargs or any(table is not None for table in rotation):
        return
    made: list[Node] = []  # in the order that they stand in
    try:
        with graph.inserting_before(attention):
            (q_before, *tables), (k_before, *same) = (_unrotated(part, made) for part in (q, k))
        if not all(map(_alike, tables, same)):
            raise _Unlike
    except _Unlike:
        for node in reversed(made):
            graph.erase_node(node)
        return
    attention.args = (q_before, k_before, *others, *tables)
    for node in (q, k, *same):
        _erase_unread(graph, node)


def _unrotated(part: Any, made: list[Node]) -> tuple[Node, Node, Node]:
    """What `part` [T, A, D] was before it was rotated, and cos and sin [T, D / 2], by which."""
    rotated, path = _climbed(part)
    x, *tables = _factors(rotated)
    before = _replayed(path, x, made)
    tokens, _, width = _value(part).shape
    if _value(before).dtype != _value(part).dtype or not _shaped(x, _value(rotated).shape):
        raise _Unlike
    halves = []
    for table in tables:
        joined, way = _climbed(table)
        if _value(table).ndim != _value(x).ndim:
            raise _Unlike
        half = _replayed([*way, *(step for step in path if step.target not in CASTS)], _half(joined), made)
        if not _shaped(half, (tokens, 1, width // 2)):
            raise _Unlike
        halves.append(_call("call_method", "squeeze", (half, 1), {}, made))
    return before, halves[0], halves[1]


def _factors(rotated: Node) -> tuple[Node, Node, Node]:
    """x, cos and sin of x * cos + rotate_half(x) * sin, whichever of two stands first."""
    for straight, across in _both_ways(_operands(rotated, SUMS)):
        for x, cos in _both_ways(_operands(straight, PRODUCTS)):
            for swapped, sin in _both_ways(_operands(across, PRODUCTS)):
                if _swapped(swapped) is _narrowest(x):
                    return _narrowest(x), cos, sin
    raise _Unlike


def _swapped(node: Node) -> Node | None:
    """x of cat((-x[..., D / 2 :], x[..., : D / 2]), -1); None of anything else."""
    parts = _joined(_narrowest(node))
    if len(parts) != 2 or parts[0].target not in NEGATIONS:
        return None
    far, near = _columns(parts[0].args[0]), _columns(parts[1])
    if far is None or near is None or near[0] is not far[0]:
        return None
    width = _value(near[0]).shape[-1]
    return near[0] if (near[1], far[1]) == (range(width // 2), range(width // 2, width)) else None


def _columns(node: Any) -> tuple[Node, range] | None:
    """x, before it was cast, and the columns of x[..., columns]; None of anything else."""
    if not isinstance(node, Node) or node.target is not operator.getitem:
        return None
    arguments: tuple[Any, ...] = node.args
    source, index = arguments
    *rows, columns = index if isinstance(index, tuple) else (index,)
    if not isinstance(columns, slice) or rows not in ([Ellipsis], [slice(None)] * (_value(source).ndim - 1)):
        return None
    width, limits = _value(source).shape[-1], (columns.start, columns.stop, columns.step)
    if not isinstance(width, int) or not all(limit is None or isinstance(limit, int) for limit in limits):
        return None
    return _narrowest(source), range(*columns.indices(width))


def _half(table: Node) -> Node:
    """half of cat((half, half), -1)."""
    parts = _joined(table)
    if len(parts) != 2 or parts[0] is not parts[1] or _value(parts[0]).requires_grad:
        raise _Unlike
    return parts[0]


def _joined(node: Any) -> Sequence[Node]:
    """What is joined column by column; nothing where `node` joins nothing so."""
    if node.target not in JOINS or not isinstance(node.args[0], Sequence):
        return ()
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return node.args[0] if dim in (-1, _value(node).ndim - 1) else ()


def _operands(node: Any, operators: frozenset[Any]) -> Sequence[Node]:
    """The two nodes that `node` computes its numbers from, if by one of these operators; none else."""
    node = _narrowest(node)
    both = len(node.args) == 2 and all(isinstance(part, Node) for part in node.args) and not node.kwargs
    return node.args if node.target in operators and both else ()


def _both_ways(pair: Sequence[Node]) -> Iterator[Sequence[Node]]:
    if pair:
        yield from (pair, pair[::-1])


def _narrowest(node: Any) -> Any:
    """What `node` was before it was cast to a type that holds all of its numbers."""
    while node.target in CASTS:
        (source, *_), dtype = node.args, _value(node).dtype
        if torch.promote_types(_value(source).dtype, dtype) != dtype:
            break
        node = source
    return node


def _climbed(node: Any) -> tuple[Node, list[Node]]:
    """Whence `node` came by casts and by moves that leave columns where they are; and these, the first one first."""
    path: list[Node] = []
    while node.target in CASTS or _moves_rows(node):
        path.insert(0, node)
        node = node.args[0]
    return node, path


def _moves_rows(node: Any) -> bool:
    if node.target not in ("transpose", "unsqueeze", operator.getitem) or node.kwargs or not _is_tensor(node.args[0]):
        return False
    last, places = _value(node.args[0]).ndim - 1, node.args[1:]
    if node.target is operator.getitem:
        index = places[0] if isinstance(places[0], tuple) else places
        taken = [place for place in index if place is not None]
        return len(taken) <= last and all(isinstance(place, int) or place == slice(None) for place in taken)
    columns = last if node.target == "transpose" else last + 1
    return all(isinstance(place, int) and place not in (-1, columns) for place in places)


def _replayed(path: Sequence[Node], start: Node, made: list[Node]) -> Node:
    """What the steps of `path` make of `start`, which then stands in the graph."""
    for step in path:
        start = _call(step.op, step.target, (start, *step.args[1:]), step.kwargs, made)
    return start


def _call(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: list[Node]) -> Node:
    node = args[0].graph.create_node(op, target, args, kwargs)
    made.append(node)
    function = getattr(torch.Tensor, target) if op == "call_method" else target
    try:
        with torch.no_grad():
            node.meta["example_value"] = function(_value(args[0]), *args[1:], **kwargs)
    except (IndexError, RuntimeError) as error:  # what can be done to all heads, but not to the one of a table
        raise _Unlike from error
    return node


def _alike(one: Any, other: Any) -> bool:
    """Whether both are, or are computed alike from the same."""
    if not isinstance(one, Node) or not isinstance(other, Node):
        return one == other
    if one is other:
        return True
    same = one.op == other.op != "placeholder" and one.target == other.target and one.kwargs == other.kwargs
    return same and len(one.args) == len(other.args) and all(map(_alike, one.args, other.args))


def _shaped(node: Node, shape: Sequence[Any]) -> bool:
    mine = _value(node).shape
    return len(mine) == len(shape) and all(statically_known_true(a == b) for a, b in zip(mine, shape, strict=True))


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("example_value"), Tensor)


def _value(node: Any) -> Tensor:
    """A tensor as it was when the layer was traced, without its numbers."""
    if not _is_tensor(node):
        raise _Unlike
    value: Tensor = node.meta["example_value"]
    return value


def _writes(node: Node) -> bool:
    named = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
    return named or node.target in IN_PLACE or bool(node.kwargs.get("out") or node.kwargs.get("inplace"))


def _erase_unread(graph: Graph, node: Node) -> None:
    if node.users or node.op == "placeholder":
        return
    sources = node.all_input_nodes
    graph.erase_node(node)
    for source in sources:
        _erase_unread(graph, source)
