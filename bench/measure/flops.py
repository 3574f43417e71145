"""What a step is worth: useful floating-point operations, fewest bytes, and the rates this device reaches.

Useful: real tokens only, forward and backward, nothing recomputed. The rates are measured in the same process, a large
matrix product and a large copy, so that no table of peaks has to be believed.
"""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.measure.operations import Operations
from gram_core.batch import Batch
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pictures import PictureEncoder
from gram_core.encoders.probe import evaluating
from gram_core.methods._base import MethodBase
from gram_core.protocols import ContentEncoder
from gram_core.training import Training

REPEATS = 5
_TRIED = (3, 5, 8)
"""Lengths of texts from which the operations of others follow."""
Within = Callable[[Any, Tensor], AbstractContextManager[Any]]
"""A model or a copy of it, and token ids [n, L] -> what its call on them runs within."""


class PictureOperations:
    """Operations of an encoder of pictures, counted while it runs on one and on two: k + n c of n pictures.

    backward: as of `EncoderOperations`.
    """

    def __init__(self, encoder: PictureEncoder, *, backward: bool = False):
        self._encoder, self._backward = encoder, backward
        one, two = self._count(1), self._count(2)
        self._of_call, self._of_picture = 2 * one - two, two - one

    def of(self, lengths: Tensor) -> int:
        """Of one pass over so many pictures as there are lengths [n]."""
        return self._of_call + len(lengths) * self._of_picture if len(lengths) else 0

    def _count(self, pictures: int) -> int:
        encoder = self._encoder
        config: Any = encoder.model.config
        pixels = torch.zeros(pictures, config.num_channels, config.image_size, config.image_size, dtype=torch.uint8)
        return counted(encoder, lambda encoder: encoder(pixels), backward=self._backward)


class EncoderOperations:
    """Operations of an encoder on texts of any lengths, counted while it runs on a few.

    backward: of forward and backward pass, with the gradients that its parameters ask for: frozen ones have none.
    within: what each call runs within; None for nothing. Of n texts of L tokens they are k + n (a + b L + c L^2): k is
    what a call does whatever it is given. A model of which that does not hold is run on every length.
    """

    def __init__(
        self,
        encoder: HuggingFaceEncoder | PreTrainedModel,
        *,
        backward: bool = False,
        within: Within | None = None,
    ):
        self._encoder, self._backward = encoder, backward
        self._within = within or (lambda model, ids: nullcontext())
        self._counted: dict[int, int] = {}
        self._of_call = 2 * self._one(_TRIED[0]) - self._count(_TRIED[0], texts=2)
        of_text = [self._one(length) - self._of_call for length in _TRIED]
        self._curve = _through(_TRIED, of_text)

    def of(self, lengths: Tensor) -> int:
        """Of one pass over texts of these lengths [n]."""
        distinct, texts = (part.tolist() for part in torch.unique(lengths, return_counts=True))
        if not distinct:
            return 0
        each = self._predicted
        if self._one(distinct[-1]) != self._of_call + each(distinct[-1]):
            each = self._measured
        return self._of_call + sum(number * each(length) for number, length in zip(texts, distinct, strict=True))

    def _predicted(self, length: int) -> int:
        a, b, c = self._curve
        return round(a + b * length + c * length * length)

    def _measured(self, length: int) -> int:
        return self._one(length) - self._of_call

    def _one(self, length: int) -> int:
        if length not in self._counted:
            self._counted[length] = self._count(length, texts=1)
        return self._counted[length]

    def _count(self, length: int, texts: int) -> int:
        def encodings(encoder: Any) -> Tensor:
            model: Any = encoder.model if isinstance(encoder, HuggingFaceEncoder) else encoder
            embedding = model.get_input_embeddings().weight
            ids = torch.full((texts, length), embedding.shape[0] - 1, device=embedding.device)
            mask = torch.ones_like(ids)
            with self._within(model, ids):  # a mask's values would be looked at
                found = model(input_ids=ids, attention_mask=None if ids.is_meta else mask).last_hidden_state
            if isinstance(encoder, HuggingFaceEncoder):
                found = encoder.finish(encoder.pooling(found.to(model.dtype), mask.bool()))
            return found

        return counted(self._encoder, encodings, backward=self._backward)


def counted(module: nn.Module, encodings: Callable[[Any], Tensor], *, backward: bool) -> int:
    """Operations of what `encodings` computes with the module, evaluated, and, backward, of its trained gradients.

    Counted on a copy without values, which takes neither memory nor arithmetic, unless the module's code asks for any.
    """
    try:
        return _operations(_without_values(module), encodings, backward)
    except Exception:  # of whatever kind: what it computes hangs on values, or it can't be copied
        return _operations(module, encodings, backward)


def _without_values(module: nn.Module) -> nn.Module:
    """A copy on the device "meta"."""
    known: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        known[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, known)


def _operations(module: nn.Module, encodings: Callable[[Any], Tensor], backward: bool) -> int:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad] if backward else []
    with evaluating(module), torch.set_grad_enabled(bool(trained)), Operations() as counter:
        found = encodings(module)
        if trained:
            torch.autograd.grad(found.sum(), trained, allow_unused=True)
    return counter.total


def operations_of(encoder: ContentEncoder, *, backward: bool = False) -> PictureOperations | EncoderOperations:
    """What counts the operations of a run's encoder."""
    if isinstance(encoder, PictureEncoder):
        return PictureOperations(encoder, backward=backward)
    assert isinstance(encoder, HuggingFaceEncoder), "a run builds no other"
    return EncoderOperations(encoder, backward=backward)


def _through(places: Sequence[int], values: Sequence[int]) -> tuple[Fraction, Fraction, Fraction]:
    """a, b, c of the parabola a + b x + c x^2 through three points."""
    (x, y, z), (p, q, r) = places, values
    first, second = Fraction(q - p, y - x), Fraction(r - q, z - y)
    c = (second - first) / (z - x)
    b = first - c * (x + y)
    return p - b * x - c * x * x, b, c


def encoder_flops(encoder: HuggingFaceEncoder | PreTrainedModel, lengths: Tensor, *, backward: bool = False) -> int:
    """Operations of an encoder on texts of these lengths [n] in one pass; backward: of its backward pass too."""
    return EncoderOperations(encoder, backward=backward).of(lengths)


def cf_flops(training: Training, batch: Batch) -> int:
    """Operations of the CF module's loss on a batch, forward and backward."""
    slots = torch.zeros(*batch.items.shape, training.encoder.width, device=training.device, requires_grad=True)
    with Operations() as counter:
        training.cf_module.loss(slots, batch.to(training.device)).backward()
    for parameter in training.cf_module.parameters():
        parameter.grad = None
    return counter.total


def optimizer_bytes(training: Training) -> int:
    """Fewest bytes of one update of encoder and CF module: of all that is trained, parameters, gradients and states
    read, all but gradients written."""
    states = {torch.optim.AdamW: 2, torch.optim.Adam: 2, torch.optim.SGD: 0}
    total = 0
    for optimizer in (training.optimization.encoder_optimizer, training.optimization.cf_optimizer):
        for group in optimizer.param_groups if optimizer is not None else ():
            kept = 1 + states.get(type(optimizer), 2)
            moved = (p for p in group["params"] if p.requires_grad)
            total += sum((2 * kept + 1) * p.numel() * p.element_size() for p in moved)
    return total


@dataclass(frozen=True)
class Rates:
    """What the device reaches: multiply-adds counted as two operations, bytes read plus bytes written."""

    matrix_flops_per_s: float
    matrix: str
    """The product that was timed, in words."""
    bytes_per_s: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a large square product in `dtype` and of a large copy on `device`, medians after a warm-up."""
    size = product_size(device)
    rate = matrix_rate(device, dtype, size)
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), device)
    name = str(dtype).removeprefix("torch.")
    tf32 = " (TF32)" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else ""
    return Rates(rate, f"{name}{tf32} product of {size} x {size}", 2 * source.nbytes / copy_s)


def product_size(device: torch.device) -> int:
    """Of a square product that is large for the device."""
    return 8192 if device.type == "cuda" else 1024


def compute_dtype(training: Training) -> torch.dtype:
    """What encoder and CF module multiply in."""
    return training.amp_dtype or next(training.encoder.parameters()).dtype


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Operations per second of a square product of this size in `dtype`."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2 * size**3 / median_s(lambda: a @ b, device)


def median_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes on the device, the median of a few times after a warm-up."""
    times = []
    for _ in range(REPEATS + 2):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return sorted(times[2:])[REPEATS // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def useful_flops(method: MethodBase, training: Training, batches: Sequence[Batch]) -> float:
    """Useful operations per step of a method over `batches`, on which it has stepped: whole intervals.

    training: as it was before an engine put an encoder of its own in; a method that does not send whole texts through
    that counts by itself (`useful_flops`).
    """
    own = method.useful_flops(batches)
    if own is not None:
        return own
    passes = method.encoded_items(batches)
    return step_flops(training, training.encoder, batches, passes, forward_only(method, len(passes), len(batches)))


def step_flops(
    training: Training,
    encoder: Any,
    batches: Sequence[Batch],
    passes: Sequence[Tensor],
    forward_only: Sequence[bool],
) -> float:
    """Useful operations per step over `batches`: encoder passes over the items of `passes`, and the CF module.

    encoder: of texts or pictures. forward_only: which of the passes have no backward.
    """
    total = len(batches) * cf_flops(training, batches[0])
    counts = {forward: operations_of(encoder, backward=not forward) for forward in set(forward_only)}
    for items, forward in zip(passes, forward_only, strict=True):
        total += counts[forward].of(training.table.lengths[items])
    return total / len(batches)


def forward_only(method: MethodBase, passes: int, steps: int) -> list[bool]:
    """Which of a method's passes over `steps` steps have no backward: of an interval, those that encode its new items;
    all of a method that never trains its encoder."""
    if method.interval == 1:
        return [method.forward_only] * passes
    of_interval = passes * method.interval // steps
    return [number % of_interval < method.interval for number in range(passes)]
