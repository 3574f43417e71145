"""A BERT-like model's forward and backward pass on packed texts, written out.

What autograd and a compiler would leave to chance is fixed here: projections to queries, keys and values are one
product; the two gradients of a residual are added where they are read; biases' gradients are summed by the kernels that
write what they sum; weights' gradients are computed beside the chain of layers, activations freed as it goes.
T tokens, d width, f width of the feed-forward part.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.encoders._aside import Aside
from gram_core.encoders._weights import Layer, Weights
from gram_core.kernels.attention import attend, attend_backward, sum_rows
from gram_core.kernels.column_sums import column_sums, partial_sums, sum_dtype
from gram_core.kernels.embedding import embed, embed_backward
from gram_core.kernels.gelu import gelu, gelu_backward
from gram_core.kernels.layer_norm import add_norm, add_norm_backward
from gram_core.packing import PackedTexts

Room = Callable[[int, torch.dtype], Tensor]
"""Numbers, and their dtype -> zeros [n] in memory of one's own."""
REST = -1
"""In the place of a layer's number: tables and vectors."""
Joined = tuple[Tensor, Tensor]
"""A linear's weight [out, in] and bias [out] in the compute dtype."""


@dataclass(frozen=True)
class Shape:
    """What the pass needs to know beside weights: heads, tile of attention (None: of texts longer than any), and the
    most tokens of a text."""

    heads: int
    block: int | None
    text_length: int
    recomputes: bool | tuple[bool, ...] = False
    """Whether a layer keeps its input only, and runs again in the backward pass: all alike, or layer by layer."""
    first: int = -1
    """The lowest layer that learns anything: where the backward pass ends, and below which nothing is kept. -1: the
    embedding learns."""

    def runs_again(self, number: int) -> bool:
        """Whether that layer does in the backward pass."""
        return self.recomputes if isinstance(self.recomputes, bool) else self.recomputes[number]


@dataclass(eq=False)
class _Kept:
    """What a layer's backward reads."""

    x: Tensor
    qkv: Tensor
    attended: Tensor
    logs: Tensor | None
    between: Tensor
    """Sum before the attention's norm."""
    between_statistics: Tensor
    normed: Tensor
    before_gelu: Tensor
    after_gelu: Tensor
    total: Tensor
    """Sum before the layer's norm."""
    total_statistics: Tensor


@dataclass(eq=False)
class Kept:
    """What the backward pass reads; it empties this as it goes, so that it runs once."""

    packed: PackedTexts
    statistics: Tensor
    layers: list[_Kept | Tensor]
    """A layer's input alone where the pass recomputes."""


@dataclass(eq=False)
class Gradients:
    """Where the backward pass writes, whatever was there: of tables, of linears' weights, of all vectors in one.
    adds_words: to the table of words, the largest, it adds instead.

    Tables and matrices that are not there are made when their turn comes, in memory that activations have left.
    vectors: norm of the embedding (weight, bias), then layer by layer: attention's norm (weight, bias), its output's
    bias, bias before GELU, the layer's norm (weight, bias), the last bias; then all biases of queries, keys, values.
    """

    tables: tuple[Tensor, ...] | None
    matrices: list[Tensor | None]
    vectors: Tensor
    adds_words: bool = False
    whole_layers: tuple[Tensor, ...] = ()
    whole_rest: tuple[Tensor, ...] = ()
    """Each layer's matrices as one tensor, and the words' table and all the rest: what is summed over processes."""

    def written(self) -> list[Tensor]:
        """All that there are."""
        return [*self.of_no_layer(), *(matrix for matrix in self.matrices if matrix is not None)]

    def whole(self, number: int) -> tuple[Tensor, ...]:
        """What is summed of a layer, or of REST."""
        return self.whole_rest if number == REST else self.whole_layers[number : number + 1]

    def of_no_layer(self) -> list[Tensor]:
        """Tables and vectors."""
        return [*(self.tables or ()), self.vectors]

    def of_layer(self, number: int) -> list[Tensor]:
        """A layer's matrices."""
        return [matrix for matrix in self.matrices[4 * number : 4 * number + 4] if matrix is not None]


def gradients_to_come(weights: Weights) -> Gradients:
    """Room for one pass's gradients, made as they come."""
    words = weights.embedding.words
    vectors = torch.empty(sum(_vector_sizes(weights)), dtype=sum_dtype(words), device=words.device)
    return Gradients(None, [None] * (4 * len(weights.layers)), vectors)


def standing_gradients(weights: Weights, dtype: torch.dtype, room: Room | None = None) -> Gradients:
    """Places for gradients of pass after pass, matrices in `dtype`. room: makes their memory; None takes torch's."""
    words, *tables = weights.embedding.tables()
    shapes = [*(tuple(table.shape) for table in tables), (sum(_vector_sizes(weights)),)]
    rest, parts = flat_places(shapes, sum_dtype(words), words.device, room)
    of_words, (of_table,) = flat_places([tuple(words.shape)], words.dtype, words.device, room)
    made = Gradients((of_table, *parts[:-1]), [], parts[-1], whole_rest=(of_words, rest))
    for layer in weights.layers:
        whole, matrices = flat_places([linear.shape for linear in layer.linears()], dtype, words.device, room)
        made.matrices += matrices
        made.whole_layers += (whole,)
    return made


def flat_places(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device, room: Room | None = None
) -> tuple[Tensor, list[Tensor]]:
    """One flat tensor of zeros, and contiguous views of these shapes in it, each aligned to 16 elements.

    room: makes its memory; None takes torch's.
    """
    sizes = [math.prod(shape) for shape in shapes]
    starts = [0, *itertools.accumulate(-(-size // 16) * 16 for size in sizes)]
    whole = torch.zeros(starts[-1], dtype=dtype, device=device) if room is None else room(starts[-1], dtype)
    return whole, [
        whole[start : start + size].view(shape) for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def _tables_like(weights: Weights) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(table, requires_grad=False) for table in weights.embedding.tables())


def in_order(gradients: Gradients, weights: Weights) -> list[Tensor | None]:
    """The gradients in the order of `Weights.parameters`; None, or anything, for those that do not learn."""
    vectors = list(gradients.vectors.split(_vector_sizes(weights)))
    found: list[Tensor | None] = [*(gradients.tables or [None] * len(weights.embedding.tables())), *vectors[:2]]
    for number, layer in enumerate(weights.layers):
        weight, bias, out, up, last_weight, last_bias, down = vectors[2 + 7 * number : 9 + 7 * number]
        biases = (vectors[number - len(weights.layers)], out, up, down)
        matrices = gradients.matrices[4 * number : 4 * number + 4]
        for linear, matrix, vector in zip(layer.linears(), matrices, biases, strict=True):
            sizes = [len(part) for part in linear.weights]
            found += [None] * len(sizes) if matrix is None else matrix.split(sizes)
            found += vector.split(sizes)
        found += [weight, bias, last_weight, last_bias]
    return found


def forward(
    packed: PackedTexts, weights: Weights, joined: Sequence[Joined], shape: Shape, keep: bool
) -> tuple[Tensor, Kept | None]:
    """Hidden states [T, d] of packed texts in the dtype of `joined`, and, with `keep`, what the backward reads."""
    x, statistics = embed(packed, weights.embedding, joined[0][0].dtype)
    kept = Kept(packed, statistics, [])
    for number, layer in enumerate(weights.layers):
        y, of_layer = _layer_forward(x, packed, layer, joined[4 * number : 4 * number + 4], shape)
        if keep and number >= shape.first:
            kept.layers.append(x if shape.runs_again(number) else of_layer)
        x = y
        del of_layer, y
    return x, kept if keep else None


def backward(
    gradient: Tensor,
    kept: Kept,
    weights: Weights,
    joined: Sequence[Joined],
    shape: Shape,
    into: Gradients,
    aside: Aside,
    finished: Callable[[int], None] | None = None,
    behind: int = 0,
) -> None:
    """From the gradient of the hidden states [T, d], which is overwritten, to those of all parameters.

    finished: called with a layer's number once its matrices have their gradients and are read no more, aside; and with
    REST once tables and vectors have.
    behind: of so many of the first layers weights' gradients are computed behind the call with REST, so that something
    is left to do while the tables' gradient, which is the largest, is summed over processes.
    """
    width, sizes = gradient.shape[1], [sum(_layer_sizes(layer)) for layer in weights.layers]
    partials = partial_sums(gradient, 2 * width + sum(sizes))
    of_embedding, *of_layers = partials.split([2 * width, *sizes], 1)
    projected = torch.empty(
        sum_rows(kept.packed, shape.block), 3 * width * len(sizes), dtype=partials.dtype, device=partials.device
    )
    of_projections = projected.split(3 * width, 1)
    aside.begin(len(gradient))
    later: list[Callable[[], object]] = []
    try:
        also: Tensor | None = None
        for number in reversed(range(max(0, shape.first), len(sizes))):
            four = slice(4 * number, 4 * number + 4)
            of_layer = kept.layers.pop()
            if isinstance(of_layer, Tensor):
                _, of_layer = _layer_forward(of_layer, kept.packed, weights.layers[number], joined[four], shape)
            waits = number < behind
            run = partial(_keep_for, later, aside) if waits else aside.run
            weight_gradient = partial(_weight_gradient, into.matrices, 4 * number, run)
            gradient, also = _layer_backward(
                gradient, also, kept.packed, of_layer, weights.layers[number], joined[four], shape, weight_gradient,
                (of_layers[number], of_projections[number]),
            )  # fmt: skip
            del of_layer
            if finished is not None:
                finish = partial(aside.run, partial(finished, number))
                later.append(finish) if waits else finish()
            aside.turn()
        if shape.first < 0:
            into.tables = into.tables or _tables_like(weights)
            if not into.adds_words:
                into.tables[0].zero_()
            embed_backward(
                gradient, also, kept.packed, kept.statistics, weights.embedding, of_embedding, into.tables,
                shape.text_length,
            )  # fmt: skip
        column_sums(partials, into.vectors[: partials.shape[1]])
        column_sums(projected, into.vectors[partials.shape[1] :])
        if finished is not None:
            finished(REST)
        while later:  # each lets go of what it reads
            later.pop(0)()
    finally:
        aside.join()


def _layer_forward(
    x: Tensor, packed: PackedTexts, layer: Layer, joined: Sequence[Joined], shape: Shape
) -> tuple[Tensor, _Kept]:
    qkv_of, out_of, up_of, down_of = joined
    qkv = F.linear(x, *qkv_of)
    heads = qkv.view(len(x), 3, shape.heads, -1)
    rows, logs = attend(heads, packed, shape.block)
    attended = rows.flatten(1)
    between = F.linear(attended, *out_of)
    norm = layer.attention_norm
    normed, between_statistics = add_norm(between, x, norm.weight, norm.bias, norm.eps)
    before = F.linear(normed, *up_of)
    after = gelu(before)
    total = F.linear(after, *down_of)
    y, total_statistics = add_norm(total, normed, layer.norm.weight, layer.norm.bias, layer.norm.eps)
    kept = _Kept(x, qkv, attended, logs, between, between_statistics, normed, before, after, total, total_statistics)
    return y, kept


def _layer_backward(
    gradient: Tensor,
    also: Tensor | None,
    packed: PackedTexts,
    kept: _Kept,
    layer: Layer,
    joined: Sequence[Joined],
    shape: Shape,
    weight_gradient: Callable[[int, Tensor, Tensor], None],
    sums: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The gradients of x by its two readers: the projections, in a tensor of its own, and the residual sum."""
    (qkv_weight, _), (out_weight, _), (up_weight, _), (down_weight, _) = joined
    width = gradient.shape[1]
    of_attention_norm, of_up_bias, of_norm = sums[0].split([3 * width, len(up_weight), 3 * width], 1)
    last = add_norm_backward(gradient, also, kept.total, kept.total_statistics, layer.norm.weight, of_norm)
    if layer.down.learns:
        weight_gradient(3, last, kept.after_gelu)
    inner = gelu_backward(last @ down_weight, kept.before_gelu, of_up_bias)
    if layer.up.learns:
        weight_gradient(2, inner, kept.normed)
    moved = add_norm_backward(
        inner @ up_weight, last, kept.between, kept.between_statistics, layer.attention_norm.weight, of_attention_norm
    )
    if layer.out.learns:
        weight_gradient(1, moved, kept.attended)
    heads = kept.qkv.view(len(gradient), 3, shape.heads, -1)
    attended = (moved @ out_weight).view(len(gradient), *heads.shape[2:])
    out = kept.attended.view(attended.shape)
    of_heads = attend_backward(attended, out, kept.logs, heads, packed, shape.block, sums[1]).flatten(1)
    if layer.qkv.learns:
        weight_gradient(0, of_heads, kept.x)
    return of_heads @ qkv_weight, moved


def _keep_for(later: list[Callable[[], object]], aside: Aside, work: Callable[[], object], *reads: Tensor) -> None:
    later.append(partial(aside.run, work, *reads))


def _weight_gradient(
    matrices: list[Tensor | None],
    first: int,
    run: Callable[..., None],
    which: int,
    of_output: Tensor,
    read: Tensor,
) -> None:
    """The gradient of a weight [out, in] that made an output [T, out] of `read` [T, in]; neither may change later.

    which: the linear of the layer whose matrices start at `first`.
    """
    out = matrices[first + which]
    if out is None:
        out = matrices[first + which] = of_output.new_empty(of_output.shape[1], read.shape[1])
    run(partial(_product, of_output.t(), read, out), of_output, read)


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left @ right into `out`, which may be wider than they are: the sum is then rounded once, to its dtype."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    elif out.is_cuda:
        torch.ops.aten.mm.dtype_out(left, right, out.dtype, out=out)
    else:
        torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def _layer_sizes(layer: Layer) -> list[int]:
    width, wide = layer.up.shape[1], layer.up.shape[0]
    return [width, width, width, wide, width, width, width]


def _vector_sizes(weights: Weights) -> list[int]:
    width = len(weights.embedding.norm_weight)
    of_layers = [size for layer in weights.layers for size in _layer_sizes(layer)]
    return [width, width, *of_layers, *[3 * width] * len(weights.layers)]
