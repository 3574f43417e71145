"""Where a layer norms and rotates queries and keys for our attention, attention is given them as they are before.

It prepares them itself then, so that what comes of it is not written to memory to be read again, and its gradient
neither. Recognised is what transformers writes as `x * cos + rotate_half(x) * sin`, by tables whose halves are one and
the same, `cat((half, half))`, and before that division by the root of a head's mean square. All else is left as it is.
The graph is that of a layer's Python calls, before autograd. T tokens packed, A heads, D head width.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from gram_core.kernels import text_attention

CASTS = frozenset(["to", "float", "double", "half", "bfloat16", "type_as"])
STEPS = frozenset(["transpose", "unsqueeze", "squeeze", operator.getitem])
SUMS = frozenset([operator.add, torch.add, "add"])
PRODUCTS = frozenset([operator.mul, torch.mul, "mul"])
NEGATIONS = frozenset([operator.neg, torch.neg, torch.negative, "neg", "negative"])
JOINS = frozenset([torch.cat, torch.concat, torch.concatenate])
IN_PLACE = frozenset([operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv])
POWERS = frozenset([operator.pow, torch.pow, "pow"])
MEANS = frozenset([torch.mean, "mean"])
ROOTS = frozenset([torch.rsqrt, "rsqrt"])
UNPREPARED = 11
"""Arguments of attention before those of what it does to queries and keys."""


class PreparingAttention(CustomGraphPass):
    """Leaves norms and rotations of queries and keys to attention, wherever both are rotated alike."""

    def __call__(self, graph: Graph) -> None:
        """Rewrites a layer's graph."""
        if not any(map(_writes, graph.nodes)):  # else a tensor may not be later what it is now
            for node in graph.find_nodes(op="call_function", target=text_attention.OPERATOR):
                _prepare_within(graph, node)

    def uuid(self) -> str:
        """For torch's cache of compiled graphs."""
        return "gram_core norms and rotates within attention, 4"


class _Unlike(Exception):
    """This is not rotated as we know it."""


def _prepare_within(graph: Graph, attention: Node) -> None:
    given: tuple[Any, ...] = attention.args
    (q, k, *others), how = given[:UNPREPARED], given[UNPREPARED:]
    if attention.kwargs or any(part is not None for part in how):
        return
    with graph.inserting_before(attention):
        for found in (_normed, _unnormed):
            made: list[Node] = []  # in the order that they stand in
            try:
                rotated = [_rotated(part, made) for part in (q, k)]
                (q_before, *q_norm), (k_before, *k_norm) = (found(part, made) for part in rotated)
                if not all(map(_alike, rotated[0].tables, rotated[1].tables)):
                    raise _Unlike
            except _Unlike:
                for node in reversed(made):
                    graph.erase_node(node)
                continue
            norms = [part for pair in zip(q_norm, k_norm, strict=True) for part in pair]
            attention.args = (q_before, k_before, *others, *rotated[0].tables, *norms)
            for node in (q, k, *rotated[1].tables):
                _erase_unread(graph, node)
            return


@dataclass(frozen=True)
class _Rotated:
    """x, what is done to heads [T, A, D] once they are rotated, and cos and sin [T, D / 2], in the graph."""

    x: Node
    path: list[Node]
    tables: list[Node]
    dtype: torch.dtype


def _rotated(part: Any, made: list[Node]) -> _Rotated:
    whole, path = _climbed(part)
    x, *tables = _factors(whole)
    tokens, _, width = _value(part).shape
    if not _shaped(x, _value(whole).shape):
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
    return _Rotated(x, path, halves, _value(part).dtype)


def _unnormed(part: _Rotated, made: list[Node]) -> tuple[Node]:
    """Heads [T, A, D] before they are rotated."""
    before = _replayed(part.path, part.x, made)
    if _value(before).dtype != part.dtype:
        raise _Unlike
    return (before,)


def _normed(part: _Rotated, made: list[Node]) -> tuple[Any, ...]:
    """Heads [T, A, D] before they are normed, the norm's weight [D] and its eps: a constant, and a tensor or None."""
    product, path = _climbed(part.x)
    for unit, weight in _both_ways(_operands(product, PRODUCTS)):
        if _value(weight).ndim != 1 or not _shaped(weight, _value(product).shape[-1:]):
            continue
        for x, root in _both_ways(_operands(_uncast(unit), PRODUCTS)):
            eps = _eps(root, _narrowest(x))
            if eps is not None and _shaped(x, _value(product).shape):
                moves = [step for step in path if step.target not in CASTS]
                return *_unnormed(replace(part, x=_narrowest(x), path=[*moves, *part.path]), made), weight, *eps
    raise _Unlike


def _eps(root: Any, x: Node) -> tuple[float, Node | None] | None:
    """eps of rsqrt(mean(x ** 2, -1, keepdim=True) + eps); None of anything else."""
    total = root.args[0] if root.target in ROOTS else None
    if not isinstance(total, Node) or total.target not in SUMS or len(total.args) != 2 or total.kwargs:
        return None
    pair: tuple[Any, Any] = total.args
    for mean, eps in (pair, pair[::-1]):
        if not isinstance(mean, Node) or mean.target not in MEANS or mean.kwargs.keys() != {"keepdim"}:
            continue
        power: Any
        power, *over = mean.args
        alike = over in ([-1], [(-1,)], [[-1]]) and mean.kwargs["keepdim"] is True
        if not alike or power.target not in POWERS or power.args[1:] != (2,) or _narrowest(power.args[0]) is not x:
            continue
        if isinstance(eps, float):
            return eps, None
        source: Any = eps.args[0] if isinstance(eps, Node) and eps.target == "item" else None
        if source is not None and _value(source).device.type == "cpu":
            return 0.0, source
    return None


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
    return _narrowest(parts[0])


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


def _uncast(node: Any) -> Any:
    while node.target in CASTS:
        node = node.args[0]
    return node


def _climbed(node: Any) -> tuple[Node, list[Node]]:
    """Whence `node` came by casts and by moves that leave columns where they are; and these, the first one first."""
    path: list[Node] = []
    while node.target in CASTS or _moves_rows(node):
        path.insert(0, node)
        node = node.args[0]
    return node, path


def _moves_rows(node: Any) -> bool:
    if (
        node.target not in ("transpose", "unsqueeze", "squeeze", operator.getitem)
        or node.kwargs
        or not _is_tensor(node.args[0])
    ):
        return False
    last, places = _value(node.args[0]).ndim - 1, node.args[1:]
    if node.target is operator.getitem:
        index = places[0] if isinstance(places[0], tuple) else places
        taken = [place for place in index if place is not None]
        return len(taken) <= last and all(isinstance(place, int) or place == slice(None) for place in taken)
    columns = last + 1 if node.target == "unsqueeze" else last
    return bool(places) and all(isinstance(place, int) and place not in (-1, columns) for place in places)


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
