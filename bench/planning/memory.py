"""Peak memory from shapes: what stays between steps, and the most that a step adds.

    fixed = weights + optimizer state + what an engine keeps standing + libraries' workspaces
    peak  = fixed + buffers + max(casts + kept activations + max(CF module, a layer's working memory), gradients)

The fullest moment is the encoder's backward pass in its last layer, when nothing that it keeps has been freed; the CF
module's own activations are gone by then. Gradients grow while the activations that they are computed from are freed.
Token counts are those that few batches exceed, since a peak is over all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench.planning.counts import TextCounts
from bench.planning.shapes import STATES, EncoderShape
from bench.planning.work import Line, Step, captured, captured_tokens, minibatches

ROOM = 1 << 22
"""The most users that a batch is tried with."""
WORKSPACE = 1 << 26
"""Of cuBLAS and cuBLASLt for each stream, on GPUs of compute capability 9 (32 MiB each, torch's CUDA semantics)."""
STREAMS = {"padded": 1, "bucketed": 1, "packed": 3, "general": 3}
"""A captured step has a stream of its own, and one for what runs beside it."""
PARTIAL_SUMS = 528, 8
"""Rows of partial sums of the packed tier's biases, at most, and tokens for each (`gram_core.kernels.column_sums`)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a step. fixed: what is there between steps, whatever the batch; gradients: that do not stand;
    activations: what autograd keeps of the encoder's passes, casts included; cf: of the CF module; buffers: encodings
    that stay over an interval; working: of the layer that runs."""

    fixed: float
    gradients: float
    activations: float
    cf: float
    buffers: float
    working: float

    @property
    def peak(self) -> float:
        """All that is there at the fullest moment."""
        return self.fixed + self.buffers + max(self.activations + max(self.cf, self.working), self.gradients)


def step_memory(step: Step, *, checkpointing: bool = False) -> Memory:
    """One step of a method. checkpointing: each layer keeps its input only, and runs again."""
    line, encoder, cf, batch, interval = step.line, step.encoder, step.cf, step.batch, step.interval
    learning = encoder.parameters * encoder.weight_bytes
    of_cf = cf.parameters * encoder.weight_bytes
    kept, again = encoder.kept_bytes, 0.0
    if checkpointing:
        kept += encoder.layers * (encoder.input_bytes - encoder.layer_bytes)
        again = encoder.layer_bytes

    def tokens(counts: TextCounts) -> float:
        if encoder.tier == "padded":
            each = float(step.text_length) if step.padding == "max_length" else counts.longest.high
            return counts.texts.high * each
        return counts.tokens.high

    def computed(passed: float) -> float:
        return captured_tokens(passed) if captured(encoder, step.device_kind) else passed

    encoding = encoder.width * encoder.weight_bytes
    if line.method == "multi_step":
        once, new = tokens(interval.unique), tokens(batch.unique)
        of = interval.unique.texts if encoder.tier == "padded" else interval.unique.tokens
        passed = held = computed(_largest_minibatch(line, once, once * of.low / of.high if of.high else 0.0))
        encoded = min(new, line.setting("encode_batch_tokens") or line.setting("ce_batch_tokens") or new)
        buffers = 3 * interval.unique.texts.high * encoding
    else:
        selected = batch.slots if line.method == "e2e" else batch.unique
        whole = computed(tokens(selected))
        chunk, limit = line.setting("chunk_tokens"), line.setting("kept_tokens")
        bounded = chunk and limit is not None and limit < whole
        held = limit + min(chunk, whole) if bounded else whole
        passed, encoded = min(chunk, whole) if chunk else whole, 0.0
        buffers = 2 * selected.texts.high * encoding
    working = passed * (again + _working_bytes(encoder)) + _partial_sums(encoder, step.device_kind, passed)
    forward_only = encoded * encoder.layer_bytes
    stands = step.device_kind == "cuda" and encoder.standing_bytes > 0
    on_gpu = encoder.standing_bytes + STREAMS[encoder.tier] * WORKSPACE if step.device_kind == "cuda" else 0.0
    return Memory(
        fixed=(learning + of_cf) * (1 + STATES[step.optimizer]) + on_gpu,
        gradients=max(forward_only, of_cf + (0.0 if stands else learning)),
        activations=encoder.cast_bytes + held * kept,
        cf=batch.users * cf.user_bytes,
        buffers=buffers,
        working=working,
    )


def _largest_minibatch(line: Line, most: float, fewest: float) -> float:
    """Tokens of the largest minibatch of intervals that hold so many: they are even, and as few as the budget allows,
    so that an interval which just fits into some fills them all."""
    budget = line.setting("ce_batch_tokens")
    if budget and minibatches(line, most) > minibatches(line, fewest) > 0:
        return float(budget)
    return most / max(1.0, minibatches(line, most))


def _working_bytes(encoder: EncoderShape) -> float:
    """Per token, of a layer's backward pass at its fullest: the gradient of what it adds, and those on both sides of
    the feed-forward part's activation."""
    return float((encoder.width + 2 * encoder.feed_forward) * encoder.element_bytes)


def _partial_sums(encoder: EncoderShape, device_kind: str, tokens: float) -> float:
    if encoder.tier != "packed" or device_kind != "cuda":
        return 0.0
    most, per_row = PARTIAL_SUMS
    columns = 2 * encoder.width + encoder.layers * (6 * encoder.width + encoder.feed_forward)
    return min(float(most), tokens / per_row) * columns * 4


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
