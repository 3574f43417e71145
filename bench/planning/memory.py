"""Peak memory from shapes: what stays between steps, and the most that a step adds.

    fixed = weights + optimizer state
    peak  = fixed + buffers + max(kept activations + CF module, gradients) + a layer's working memory

Gradients grow while the activations that they are computed from are freed, so that the larger of both counts. Token
counts are those that few batches exceed, since a peak is over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.planning.counts import TextCounts
from bench.planning.shapes import STATES
from bench.planning.work import Step, minibatches

WORKING = 0.5
"""A layer's working memory besides what it keeps, in parts of that."""
ROOM = 1 << 22
"""The most users that a batch is tried with."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a step. fixed: weights and optimizer state; gradients; activations: what autograd keeps of encoder and
    CF module at once; buffers: encodings that stay over an interval; working: of the layer that runs."""

    fixed: float
    gradients: float
    activations: float
    buffers: float
    working: float

    @property
    def peak(self) -> float:
        """All that is there at the fullest moment."""
        return self.fixed + self.buffers + max(self.activations, self.gradients) + self.working


def step_memory(step: Step, *, checkpointing: bool = False) -> Memory:
    """One step of a method. checkpointing: each layer keeps its input only, and runs again."""
    line, encoder, cf, batch, interval = step.line, step.encoder, step.cf, step.batch, step.interval
    parameters = (encoder.parameters + cf.parameters) * encoder.weight_bytes
    kept = encoder.kept_bytes
    if checkpointing:
        kept += encoder.layers * (encoder.input_bytes - encoder.layer_bytes)

    def tokens(counts: TextCounts) -> float:
        if encoder.tier == "padded":
            each = float(step.text_length) if step.padding == "max_length" else counts.longest.high
            return counts.texts.high * each
        return counts.tokens.high

    encoding = encoder.width * encoder.weight_bytes
    of_cf = batch.users * cf.user_bytes
    if line.method == "multi_step":
        once, new = tokens(interval.unique), tokens(batch.unique)
        minibatch = once / max(1.0, minibatches(line, once))
        at_once = min(new, line.setting("encode_batch_tokens") or line.setting("ce_batch_tokens") or new)
        activations = max(minibatch * kept, of_cf)
        buffers = 3 * interval.unique.texts.high * encoding
        working = max(at_once, minibatch) * encoder.layer_bytes * (1 if checkpointing else WORKING)
    else:
        selected = batch.slots if line.method == "e2e" else batch.unique
        computed = tokens(selected)
        chunk, limit = line.setting("chunk_tokens"), line.setting("kept_tokens")
        held = min(computed, limit) if chunk and limit is not None else computed
        again = min(chunk, computed) if chunk and held < computed else 0.0
        activations = (held + again) * kept + of_cf
        buffers = 2 * selected.texts.high * encoding
        working = (min(chunk, computed) if chunk else computed) * encoder.layer_bytes
        working *= 1 if checkpointing else WORKING
    return Memory(
        fixed=parameters * (1 + STATES[step.optimizer]),
        gradients=float(parameters),
        activations=activations,
        buffers=buffers,
        working=working,
    )


def largest_batch(peak: Callable[[int], float], limit_bytes: float) -> int | None:
    """The most users whose peak, which grows with them, is within the limit; None where a single one is not."""
    if peak(1) > limit_bytes:
        return None
    low, high = 1, 2
    while high <= ROOM and peak(high) <= limit_bytes:
        low, high = high, 2 * high
    if high > ROOM:
        return ROOM
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= limit_bytes else (low, middle)
    return low
