"""What one step of a method amounts to on a device: operations, bytes and launches, from counts and shapes alone.

An encoder pass over texts runs forward and, where it trains, backward, which multiplies twice as much; a part of it may
be recomputed. Everything is per step, a mean over an interval where a method has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench.planning.counts import GroupCounts, TextCounts
from bench.planning.shapes import CFShape, EncoderShape, optimizer_bytes
from gram_core.engines._captured import Capacities

METHODS = ("e2e", "e2e_unique", "single_step", "multi_step")
"""Methods whose steps are modelled."""
SMALLEST_TOKENS = 256
"""What sizes that graphs are captured for differ by at least."""
NEW_ITEMS_ROOM = 0.9 * 0.5 / math.log(1.5)
"""What an interval's new items cost over a third of a pass forward and back. The graphs that encode them have 1.23
times their tokens on average, their sizes growing by 1.5 (`gram_core.engines._inputs.NewItemsPacker`), but keep
nothing, which by runs of one H100 and one H200 saves about a tenth."""
BACKWARD = 2
"""A backward pass multiplies twice where the forward pass multiplies once."""


@dataclass(frozen=True)
class Work:
    """A step's terms; `bench.planning.cost` gives each a coefficient.

    product_flops: of matrix products with weights; attention_flops: of those between tokens; element_bytes: tokens x
    layers x width, once per pass, in bytes; optimizer_bytes: fewest that updates read and write; cf_flops: of the CF
    module, by its parameters; launches: encoder layers entered, forward and backward; slots: that the host lays out.
    """

    product_flops: float = 0.0
    attention_flops: float = 0.0
    element_bytes: float = 0.0
    optimizer_bytes: float = 0.0
    cf_flops: float = 0.0
    launches: float = 0.0
    slots: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Line:
    """A method on an engine. steps: N of its interval; settings: the method's own table of the configuration."""

    method: str
    engine: str
    steps: int = 1
    settings: Mapping[str, Any] | None = None

    def setting(self, name: str) -> Any:
        """One of the method's settings; None where it is left out."""
        return (self.settings or {}).get(name)


@dataclass(frozen=True)
class Computed:
    """Tokens and squared lengths that a tier computes for texts, padding included."""

    texts: float
    tokens: float
    squares: float


def computed(shape: EncoderShape, padding: str, text_length: int, device_kind: str, counts: TextCounts) -> Computed:
    """What passes the encoder: real tokens where it is packed, else each text as long as it is padded to.

    On a CPU attention of the packed tier sees its texts padded to the longest.
    """
    texts = counts.texts.mean
    longest = counts.longest.mean
    padded = float(text_length) if padding == "max_length" else longest
    if shape.tier == "padded":
        return Computed(texts, texts * padded, texts * padded**2)
    squares = (
        texts * longest**2 if device_kind == "cpu" and shape.tier in ("packed", "general") else counts.squares.mean
    )
    return Computed(texts, counts.tokens.mean, squares)


def encoder_work(shape: EncoderShape, of: Computed, forward: float, backward: float, calls: float) -> Work:
    """Passes over texts: `forward` times forward and `backward` times back, taken in `calls` calls."""
    times = forward + BACKWARD * backward
    return Work(
        product_flops=times * shape.token_flops * of.tokens,
        attention_flops=times * shape.square_flops * of.squares,
        element_bytes=times * of.tokens * shape.layers * shape.width * shape.element_bytes,
        launches=times * calls * shape.layers,
    )


def captured(encoder: EncoderShape, device_kind: str) -> bool:
    """Whether its passes are replayed from graphs, each of a fixed size."""
    return device_kind == "cuda" and encoder.tier in ("packed", "general")


def captured_tokens(tokens: float) -> float:
    """The size that a graph is captured for: a little room, and steps of a 64th to a 32nd."""
    return float(Capacities(SMALLEST_TOKENS).fit(math.ceil(tokens)))


def minibatches(line: Line, tokens: float) -> float:
    """Encoder minibatches of an interval of multi_step that passes so many tokens once."""
    budget = line.setting("ce_batch_tokens")
    return float(math.ceil(tokens / budget)) if budget else float(line.steps)


@dataclass(frozen=True)
class Step:
    """What a step is reckoned from. batch: counts of a batch; interval: of N batches, the same where N is 1."""

    line: Line
    encoder: EncoderShape
    cf: CFShape
    batch: GroupCounts
    interval: GroupCounts
    optimizer: str
    padding: str
    text_length: int
    device_kind: str


def step_work(step: Step) -> Work:
    """One step. Raises ValueError for a method that is not modelled."""
    line, encoder, cf, batch, optimizer = step.line, step.encoder, step.cf, step.batch, step.optimizer
    if line.method not in METHODS:
        raise ValueError(f"{line.method} is not modelled; plan knows {', '.join(METHODS)}")

    def passes(counts: TextCounts) -> Computed:
        return computed(encoder, step.padding, step.text_length, step.device_kind, counts)

    of_encoder = optimizer_bytes(encoder.parameters, encoder.weight_bytes, optimizer)
    updates = 1.0
    if line.method == "multi_step":
        met = passes(step.interval.unique)
        room = NEW_ITEMS_ROOM if captured(encoder, step.device_kind) else 1.0
        new = Computed(met.texts / line.steps, room * met.tokens / line.steps, met.squares / line.steps)
        ce_passes = line.setting("ce_passes") or 1
        updates = ce_passes * minibatches(line, met.tokens) / line.steps
        own = encoder_work(encoder, new, forward=1, backward=0, calls=min(1.0, new.texts))
        own += encoder_work(encoder, new, forward=ce_passes, backward=ce_passes, calls=updates / ce_passes)
    else:
        of = passes(batch.slots if line.method == "e2e" else batch.unique)
        chunk, kept = line.setting("chunk_tokens"), line.setting("kept_tokens")
        calls = float(max(1, math.ceil(of.tokens / chunk))) if chunk else 1.0
        own = encoder_work(encoder, of, forward=1, backward=1, calls=calls)
        if chunk and kept is not None and of.tokens > kept:
            share = 1 - kept / of.tokens
            again = Computed(share * of.texts, share * of.tokens, share * of.squares)
            own += encoder_work(encoder, again, forward=1, backward=0, calls=share * calls)
    slots = batch.slots.texts.mean
    of_cf = Work(
        optimizer_bytes=updates * of_encoder + optimizer_bytes(cf.parameters, encoder.weight_bytes, optimizer),
        cf_flops=(1 + BACKWARD) * 2.0 * cf.parameters * slots,
        slots=slots,
    )
    return own + of_cf
