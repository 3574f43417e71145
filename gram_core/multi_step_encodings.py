"""Multi-step GRAM (Sec. 4.3, Alg. 1) in anyone's loop: `MultiStep`'s mathematics on the caller's batches and losses.

    targets = MultiStepEncodings(encoder, encoder_optimizer, accumulation_steps=16)
    for batch in loader:
        history, candidates = targets.encode(batch["history"], batch["candidates"])
        tower(history, candidates, batch).backward()
        tower_optimizer.step(), tower_optimizer.zero_grad()
        targets.step()
    targets.finish()

U distinct items, d width.
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gram_core.chunking import chunk_bounds
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.item_slots import ItemSlots
from gram_core.methods.multi_step import pseudo_loss
from gram_core.recomputation import AutocastState, ItemEncoder, encode_chunks, module_of


class MultiStepEncodings:
    """Encodings that the caller's gradients move, and an encoder that follows them once per `accumulation_steps`.

    encoder: as in `encode`. update: the encoder's optimizer, which is stepped and cleared after `backward`; or a
    function that is given the pseudo-loss of a minibatch and back-propagates, clips, steps and clears in the caller's
    way (GradScaler, Accelerate, schedulers).
    accumulation_steps: N. ce_batch: the most items of an encoder's minibatch; None divides the items touched into N.
    ce_passes: how often the encoder passes over them. pseudo_target_rate: by how much of a gradient encodings move.
    chunk: the most items that are encoded at once when they are met, without a graph.

    N = 1 with one pass leaves the gradient of `encode`; above, encodings are up to N steps old. One process only.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        update: Optimizer | Callable[[Tensor], object],
        *,
        accumulation_steps: int = 16,
        ce_batch: int | None = None,
        ce_passes: int = 1,
        pseudo_target_rate: float = 1.0,
        chunk: int | None = None,
    ):
        if accumulation_steps < 1 or ce_passes < 1 or not pseudo_target_rate > 0:
            raise ValueError("accumulation_steps and ce_passes must be at least 1, pseudo_target_rate above 0")
        if isinstance(module_of(encoder), DistributedDataParallel):
            raise ValueError(
                "MultiStepEncodings trains in one process; for several use MultiStep with gram_core.distributed"
            )
        self.encoder = encoder
        self.accumulation_steps = accumulation_steps
        self._update = _stepping(update) if isinstance(update, Optimizer) else update
        self._ce_batch, self._ce_passes, self._chunk = ce_batch, ce_passes, chunk
        self._rate = pseudo_target_rate
        self._buffer: EncodingBuffer | None = None
        self._lent: list[tuple[ItemSlots, tuple[Tensor, ...]]] = []
        self._steps = 0

    @property
    def items_touched(self) -> int:
        """Items met since the encoder last moved."""
        return 0 if self._buffer is None else len(self._buffer)

    @overload
    def encode(self, ids: Tensor, /) -> Tensor: ...
    @overload
    def encode(self, ids: Tensor, other: Tensor, /, *more: Tensor) -> tuple[Tensor, ...]: ...
    def encode(self, *ids: Tensor) -> Any:
        """Moved encodings [*shape, d] for each tensor of ids (Eq. 5-6), leaves that wait for the loss's gradient.

        Items are encoded when the interval first meets them. May be called several times before a `step`.
        """
        if not torch.is_grad_enabled():
            raise RuntimeError("moved encodings are for training: evaluate with encode(encoder, ids)")
        slots = ItemSlots.of(ids)
        items = slots.items.cpu()
        self._autocast, self._device = AutocastState.now(), slots.items.device
        buffer = self._met(items)
        moved = buffer.moved(items).to(self._dtype)
        leaves = tuple(part.requires_grad_() for part in slots.spread(moved))
        self._lent.append((slots, leaves))
        return leaves[0] if len(leaves) == 1 else leaves

    def step(self, scale: float | None = None) -> None:
        """Moves the pseudo-targets (Eq. 8) by the gradients that arrived; every N-th also updates the encoder (Eq. 9).

        scale: what the loss was multiplied with, as by GradScaler (`get_scale()` before its `update()`). Gradients that
        are not finite then move nothing, as the scaler's optimizers do.
        """
        gradients = [self._gradient(slots, leaves) for slots, leaves in self._lent]
        if self._buffer is None or all(gradient is None for gradient in gradients):
            raise RuntimeError("no gradient arrived at the encodings: call backward on the loss before step()")
        rate = self._rate / (1.0 if scale is None else scale)
        moves = [(slots.items.cpu(), g) for (slots, _), g in zip(self._lent, gradients, strict=True) if g is not None]
        if scale is None or all(bool(gradient.isfinite().all()) for _, gradient in moves):
            for items, gradient in moves:
                self._buffer.move(items, gradient, rate)
        self._lent = []
        self._steps += 1
        if self._steps >= self.accumulation_steps:
            self.finish()

    def finish(self) -> None:
        """Updates the encoder with an interval that is still open; to be called before evaluating and saving."""
        if self._steps and self._buffer is not None:
            for items in self._minibatches(self._buffer.items) * self._ce_passes:
                with self._autocast.again():
                    encodings = encode_chunks(self.encoder, items.to(self._device), None, None)
                if encodings.requires_grad:  # of a frozen encoder nothing does
                    self._update(pseudo_loss(encodings, *self._buffer.read(items)))
            self._buffer.clear()
        self._steps = 0

    def _met(self, items: Tensor) -> EncodingBuffer:
        """The rows of this interval's items, `items` int64 [U] among them."""
        missing = items if self._buffer is None else self._buffer.missing(items)
        if self._buffer is None or len(missing):
            with torch.no_grad():
                encodings = encode_chunks(self.encoder, missing.to(self._device), self._chunk, None)
            self._dtype = encodings.dtype
            if self._buffer is None or (not len(self._buffer) and not _fits(self._buffer, encodings)):
                self._buffer = EncodingBuffer(encodings.shape[-1], encodings.device, _wide(encodings))
            self._buffer.add(missing, encodings)
        return self._buffer

    def _gradient(self, slots: ItemSlots, leaves: tuple[Tensor, ...]) -> Tensor | None:
        """dL/d encodings of the slots' items [U, d], summed over slots, in the rows' dtype; None where none arrived."""
        if self._buffer is None or all(leaf.grad is None for leaf in leaves):
            return None
        wide = self._buffer.tensors[0]
        rows = torch.zeros(len(slots.items), wide.shape[1], dtype=wide.dtype, device=wide.device, requires_grad=True)
        with torch.enable_grad():
            spread = slots.spread(rows)
        arrived = [(s, leaf.grad.to(s.dtype)) for s, leaf in zip(spread, leaves, strict=True) if leaf.grad is not None]
        parts, gradients = zip(*arrived, strict=True)
        return torch.autograd.grad(parts, rows, gradients)[0]

    def _minibatches(self, items: Tensor) -> list[Tensor]:
        if self._ce_batch is None:
            return [part for part in items.tensor_split(self._steps) if len(part)]
        bounds = chunk_bounds(torch.ones(len(items), dtype=torch.int64), self._ce_batch)
        return [items[start:stop] for start, stop in bounds]


def _wide(encodings: Tensor) -> torch.dtype:
    """The rows' dtype: small moves keep their digits in it."""
    return torch.promote_types(encodings.dtype, torch.float32)


def _fits(buffer: EncodingBuffer, encodings: Tensor) -> bool:
    rows = buffer.tensors[0]
    return rows.device == encodings.device and rows.dtype == _wide(encodings) and rows.shape[1] == encodings.shape[1]


def _stepping(optimizer: Optimizer) -> Callable[[Tensor], None]:
    def update(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update
