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
N may also be chosen while training: "auto" (see `adaptive_interval`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from gram_core.adaptive_interval import AdaptiveInterval, StepCosts, evenly, relative_drift
from gram_core.batch import Batch, Selection, unique_items
from gram_core.chunking import chunk_bounds
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.evaluation import encode_all
from gram_core.methods._base import MethodBase
from gram_core.methods._settings import MultiStepSettings
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


def interval_passes(batches: Sequence[Batch], steps: int, ce_passes: int = 1) -> list[Tensor]:
    """What passes the encoder in intervals of `steps` batches: each one's new items, then all, `ce_passes` times."""
    passes: list[Tensor] = []
    for start in range(0, len(batches), steps):
        distinct = [unique_items(batch).items for batch in batches[start : start + steps]]
        met = torch.zeros(max((int(items.max()) + 1 for items in distinct if len(items)), default=0), dtype=torch.bool)
        new = []
        for items in distinct:
            new.append(items[~met[items]])
            met[items] = True
        passes += [*new, *[torch.cat(new)] * ce_passes]
    return passes


class MultiStep(MethodBase):
    """N CF steps on moved encodings, then one pass of the encoder over the items touched."""

    name: ClassVar[str] = "multi_step"
    exactness: ClassVar[Exactness] = "stale"
    distributes: ClassVar[bool] = True
    exact_with: ClassVar[Mapping[str, Any]] = {
        "accumulation_steps": 1,
        "pseudo_target_loss": "mean",
        "pseudo_target_rate": 1.0,
        "ce_batch_tokens": None,
        "ce_passes": 1,
    }

    Settings = MultiStepSettings

    def __init__(self, training: Training, settings: MultiStepSettings | None = None):
        self.training = training.jointly()
        self.settings = settings or self.Settings()
        self._buffer = self.training.encoding_buffer()
        self._steps = 0
        self._adaptive = _adaptive(self.settings)
        self.costs: StepCosts | None = None
        """What measures a CF step's cost where "auto" isn't told; it needs a clock, which the core has none of."""

    @property
    def interval(self) -> int:
        """N; with "auto", N now."""
        return self._adaptive.steps if self._adaptive else int(self.settings.accumulation_steps)

    @property
    def pending(self) -> bool:
        """Whether an interval is open."""
        return self._steps > 0

    def step(self, batch: Batch) -> Tensor:
        """One CF step; every N-th also updates the encoder. Returns the loss, detached."""
        with phase("host"):
            selection = self.training.joined(batch)
        self._encode_new(selection.items)
        with self._costs_of_cf_step():
            loss = self._cf_step(selection, batch)
        self._steps += 1
        if self._steps >= self.interval:
            self._update_encoder()
        return loss

    def _cf_step(self, selection: Selection, batch: Batch) -> Tensor:
        """Phases 2 and 3; returns the loss, detached."""
        moved = self._buffer.moved(selection.items)
        loss, gradient = self.training.cf_step_and_gradient(moved, selection.slot_rows, batch)
        self._buffer.move(selection.items, gradient, self._rate(batch))
        return loss

    def finish(self) -> None:
        """Updates the encoder with an interval that is still open."""
        if self._steps:
            self._update_encoder()

    def _rate(self, batch: Batch) -> float:
        """By how much of the mean loss's gradient this step moves encodings."""
        summed = self.settings.pseudo_target_loss == "sum"
        return self.settings.pseudo_target_rate * (self.training.loss_terms(batch) if summed else 1)

    def _encode_new(self, items: Tensor) -> None:
        """Phase 1: rows for the items [U] that the interval has not met yet."""
        missing = self._buffer.missing(items)
        new = self._buffer.claim(missing)
        for chunk in self._minibatches(new, self._encode_budget):
            self._buffer.add(chunk, self._encode_items(chunk, missing))
        if not len(self._buffer):
            raise ValueError("a batch holds no item")

    def _encode_items(self, items: Tensor, missing: Tensor) -> Tensor:
        """Encodings [n, d] of `items` [n], which are among those that all processes encode now, `missing`."""
        with torch.no_grad():
            return self.training.encode(items)

    def _update_encoder(self) -> None:
        """Phase 4, and the interval begins anew."""
        for minibatch in self._ce_minibatches(self._buffer.items):
            with self._costs_of_ce_step(minibatch):
                self._ce_step(minibatch, self._buffer)
        if self._adaptive is not None:
            self._adapt(self._adaptive, self._buffer)
        self._buffer.clear()
        self._steps = 0

    def _adapt(self, adaptive: AdaptiveInterval, buffer: EncodingBuffer) -> None:
        """Chooses the next N by how far the encoder stayed from where the CF module took its encodings."""
        if adaptive.cf_step_tokens is None:
            adaptive.cf_step_tokens = self._measured_costs().cf_step_tokens
        if adaptive.cf_step_tokens is None or self._steps < adaptive.steps:
            return  # nothing to weigh yet, or an interval that was cut short, which tells little of N
        sample = evenly(buffer.items, self.settings.drift_items)
        fresh = encode_all(self.training, sample, self._encode_budget)
        touched, sampled = (self._tokens(items) for items in (buffer.items, sample))
        adaptive.observe(
            relative_drift(buffer.moved(sample), fresh),
            encoded_tokens=touched + sampled,
            trained_tokens=self.settings.ce_passes * touched,
        )

    def _measuring(self) -> bool:
        return self._adaptive is not None and self._adaptive.cf_step_tokens is None

    def _measured_costs(self) -> StepCosts:
        if self.costs is None:
            raise ValueError(
                "accumulation_steps 'auto' weighs what a CF step costs: set cf_step_tokens, or `costs` to measure it"
            )
        return self.costs

    def _costs_of_cf_step(self) -> AbstractContextManager[None]:
        return self._measured_costs().cf_step() if self._measuring() else nullcontext()

    def _costs_of_ce_step(self, items: Tensor) -> AbstractContextManager[None]:
        return self._measured_costs().ce_step(self._tokens(items)) if self._measuring() else nullcontext()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint between intervals needs besides models and optimizers: N and costs where N is "auto"."""
        if self._adaptive is None:
            return {}
        known = self._adaptive.cf_step_tokens or 0.0
        return {"adaptive": torch.tensor([self._adaptive.steps, known], dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from `state`."""
        if self._adaptive is not None:
            steps, known = state["adaptive"].tolist()
            self._adaptive.steps, self._adaptive.cf_step_tokens = int(steps), known or None

    def _ce_step(self, items: Tensor, buffer: EncodingBuffer) -> None:
        held = buffer.owned(items)
        encodings = self.training.encode(held)
        with phase("ce_backward"):
            if encodings.requires_grad:  # of a frozen encoder nothing does
                pseudo_loss(encodings, *buffer.read(held)).backward()
        self.training.optimization.step_encoder()

    def _ce_minibatches(self, items: Tensor) -> list[Tensor]:
        if not self.settings.ce_batch_tokens:
            minibatches = [part for part in items.tensor_split(self._steps) if len(part)]
        else:
            minibatches = self._minibatches(items, self.settings.ce_batch_tokens)
        return minibatches * self.settings.ce_passes

    @property
    def _encode_budget(self) -> int | None:
        """The most tokens encoded at once without a graph."""
        return self.settings.encode_batch_tokens or self.settings.ce_batch_tokens or None

    def _tokens(self, items: Tensor) -> float:
        return float(self.training.table.lengths[items].sum())

    def _minibatches(self, items: Tensor, budget: int | None) -> list[Tensor]:
        tokens = self.training.encoder.computed_tokens(self.training.table.lengths[items])
        return [items[start:stop] for start, stop in chunk_bounds(tokens, budget)]

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, taken as whole intervals from a fresh one.

        New items of each step first, then each CE pass; forward passes without a graph are counted alike. With "auto"
        at the present N, without the sample that its drift is measured on.
        """
        return interval_passes(batches, self.interval, self.settings.ce_passes)


def _adaptive(settings: MultiStepSettings) -> AdaptiveInterval | None:
    if settings.accumulation_steps != "auto":
        return None
    if settings.most_steps is None:
        raise ValueError("accumulation_steps 'auto' needs most_steps, the largest N")
    return AdaptiveInterval(settings.most_steps, settings.drift_limit, settings.encoder_share, settings.cf_step_tokens)
