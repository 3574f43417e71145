"""Multi-step GRAM (Sec. 4.3, Alg. 1): the encoder learns once per interval of N CF steps.

Per CF step:
1. items that appear for the first time in the interval are encoded, without a graph (Eq. 5);
2. the CF module steps on the loss L of the *moved* encodings (Eq. 6-7);
3. pseudo-targets move on: h~_i <- h~_i - dL/dh_i, one SGD step of rate 1 (Eq. 8).
Per interval:
4. the encoder regresses to the pseudo-targets of the items touched, 1/2 sum_i |h~_i - CE(c_i)|^2 (Eq. 9), in
   CE minibatches with an optimizer step each.
Memory is set by the CE minibatch and not by the CF batch. With N > 1 encodings are up to N steps old: stale, no
longer end-to-end training's gradient. With N = 1 and one CE minibatch it is Single-step GRAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gram_core.batch import Batch, unique_items
from gram_core.chunking import chunk_bounds
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


def resolve_accumulation_steps(accumulation_steps: int | str, steps_per_epoch: int | None) -> int:
    """N as a number of steps: an integer as it is, "0.5E" or "1E" as that share of an epoch, at least 1.

    Raises ValueError where it is neither, or where it asks for an epoch and the data has none (None).
    """
    text = str(accumulation_steps).strip()
    share = text[:-1] if text[-1:] in "Ee" else None
    try:
        steps = float(share) if share is not None else int(text)
    except ValueError:
        steps = 0
    if not 0 < steps < float("inf"):
        raise ValueError(
            f"accumulation_steps must be a positive integer or a share of an epoch ('0.5E'), not {accumulation_steps!r}"
        )
    if share is None:
        return int(steps)
    if steps_per_epoch is None:
        raise ValueError(
            f"accumulation_steps {accumulation_steps!r} needs a workload with epochs; give a number of steps"
        )
    return max(1, round(steps * steps_per_epoch))


def pseudo_loss(encodings: Tensor, encoded: Tensor, displacement: Tensor) -> Tensor:
    """Eq. 9: half the summed squared distance of encodings [n, d] to their detached pseudo-targets [n, d].

    The pseudo-target is `encoded + displacement`; the two are apart so that a displacement of 1e-6 keeps
    its digits beside an encoding of 1 (in float32 their sum would keep one of them).
    """
    return 0.5 * ((encoded.detach() - encodings) + displacement.detach()).square().sum()


class MultiStep:
    """N CF steps on moved encodings, then one pass of the encoder over the items touched."""

    name: ClassVar[str] = "multi_step"
    exactness: ClassVar[Exactness] = "stale"

    @dataclass(frozen=True)
    class Settings:
        """accumulation_steps: N; resolve shares of an epoch first (`resolve_accumulation_steps`).

        ce_batch_tokens: the most tokens of a CE minibatch; None divides the items touched into N minibatches
        of like count, as the paper does.
        ce_passes: how often the encoder passes over the items touched at the interval's end.
        encode_batch_tokens: the most tokens encoded at once in phase 1 (no graph); None takes ce_batch_tokens.
        """

        accumulation_steps: int = 16
        ce_batch_tokens: int | None = None
        ce_passes: int = 1
        encode_batch_tokens: int | None = None

        def __post_init__(self) -> None:
            if self.accumulation_steps < 1 or self.ce_passes < 1:
                raise ValueError("accumulation_steps and ce_passes must be at least 1")

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()
        self._buffer: EncodingBuffer | None = None
        self._steps = 0

    @property
    def interval(self) -> int:
        """N."""
        return self.settings.accumulation_steps

    @property
    def items_touched(self) -> int:
        """Items met since the encoder last moved."""
        return 0 if self._buffer is None else len(self._buffer)

    def step(self, batch: Batch) -> Tensor:
        """One CF step; every N-th also updates the encoder. Returns the loss, detached."""
        with phase("host"):
            selection = unique_items(batch)
        buffer = self._encode_new(selection.items)
        loss, gradient = self._cf_step(buffer.moved(selection.items), selection.slot_rows, batch)
        buffer.move(selection.items, -gradient)
        self._steps += 1
        if self._steps == self.settings.accumulation_steps:
            self._update_encoder()
        return loss

    def finish(self) -> None:
        """Updates the encoder with an interval that is still open."""
        if self._steps:
            self._update_encoder()

    def _encode_new(self, items: Tensor) -> EncodingBuffer:
        """Phase 1: rows for the items [U] that the interval has not met yet."""
        new = items if self._buffer is None else self._buffer.missing(items)
        budget = self.settings.encode_batch_tokens or self.settings.ce_batch_tokens
        for chunk in self._minibatches(new, budget):
            encodings = self._encode_items(chunk)
            if self._buffer is None:
                self._buffer = EncodingBuffer(encodings.shape[1], encodings.device, encodings.dtype)
            self._buffer.add(chunk, encodings)
        if self._buffer is None:
            raise ValueError("a batch holds no item")
        return self._buffer

    def _encode_items(self, items: Tensor) -> Tensor:
        with torch.no_grad():
            return self.training.encode(items)

    def _cf_step(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Phase 2: the loss and dL/dh [U, d]; the CF module has stepped."""
        leaf = encodings.requires_grad_()
        with phase("cf"):
            loss = self.training.loss(self.training.gather(slot_rows)(leaf), batch)
            loss.backward()
        self.training.optimization.step_cf()
        return loss.detach(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def _update_encoder(self) -> None:
        """Phase 4, and the interval begins anew."""
        assert self._buffer is not None, "an interval has steps, so it has touched items"
        for minibatch in self._ce_minibatches(self._buffer.items):
            self._ce_step(minibatch, self._buffer)
        self._buffer.clear()
        self._steps = 0

    def _ce_step(self, items: Tensor, buffer: EncodingBuffer) -> None:
        encodings = self.training.encode(items)
        with phase("ce_backward"):
            pseudo_loss(encodings, *buffer.read(items)).backward()
        self.training.optimization.step_encoder()

    def _ce_minibatches(self, items: Tensor) -> list[Tensor]:
        if self.settings.ce_batch_tokens is None:
            minibatches = [part for part in items.tensor_split(self._steps) if len(part)]
        else:
            minibatches = self._minibatches(items, self.settings.ce_batch_tokens)
        return minibatches * self.settings.ce_passes

    def _minibatches(self, items: Tensor, budget: int | None) -> list[Tensor]:
        tokens = self.training.encoder.computed_tokens(self.training.table.lengths[items])
        return [items[start:stop] for start, stop in chunk_bounds(tokens, budget)]

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, taken as whole intervals from a fresh one.

        New items of each step first, then each CE pass; forward passes without a graph are counted alike.
        """
        passes: list[Tensor] = []
        n = self.settings.accumulation_steps
        for start in range(0, len(batches), n):
            touched = torch.empty(0, dtype=torch.int64)
            for batch in batches[start : start + n]:
                items = unique_items(batch).items
                new = items[~torch.isin(items, touched)]
                passes.append(new)
                touched = torch.cat([touched, new])
            passes.extend([touched] * self.settings.ce_passes)
        return passes
