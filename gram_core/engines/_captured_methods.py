"""Methods whose device work is captured: the host selects and packs the next step while the device replays this one.

U unique items (capacity), d width.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gram_core.batch import Batch, Selection, mapped
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.standing import StandingOptimization, is_watched
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.engines._capturable import Bound, forget_undecided, forget_what_is_replaced, make_capturable, stand
from gram_core.engines._captured import Capacities, Captured, CapturedFunction, Inputs, Outputs
from gram_core.engines._captured_cf import CapturingTraining
from gram_core.engines._inputs import (
    SMALLEST_ROWS,
    NewItemsPacker,
    Packer,
    batch_of,
    gather_of,
    packed_texts,
    rows_of,
    slot_inputs,
)
from gram_core.engines._tiers import FallBack
from gram_core.methods._base import MethodBase
from gram_core.methods._settings import MultiStepSettings
from gram_core.methods.e2e import E2E
from gram_core.methods.multi_step import MultiStep, pseudo_loss
from gram_core.methods.single_step import SingleStep
from gram_core.phases import phase
from gram_core.training import Training


class FollowsModel(Captured):
    """Captured work on an encoder that may be changed between steps. summed: see `stand`."""

    training: Training
    _encoder: PackingEncoder
    _standing: StandingOptimization | None = None
    _sums_passes = False
    _aside = False
    """Whether steps are launched, for the sake of hooks."""

    def _prepare(self) -> None:
        """Decides by the model as it is now how its weights stand."""
        if self._standing is not None:
            self._standing.release()
        self._standing = stand(self.training, self._encoder, summed=self._sums_passes)
        self._optimization = self._standing or self.training.optimization
        self._bound = Bound(self.training, self._encoder)

    def _refresh(self) -> bool:
        """Follows what was changed from outside since the last step; False: a step is to be launched, not replayed."""
        if not self._encoder.holds():
            return False
        if any(map(is_watched, self._bound.parameters)):
            self._step_aside()
            return False
        if self._aside or not self._bound.holds():
            self._aside = False
            self._prepare()
            for function in self.functions:
                function.forget()
        if self._standing is not None:
            self._standing.refresh()
        return True

    def _step_aside(self) -> None:
        """Leaves gradients with parameters, for hooks that wait for them there, which a replayed step does not call."""
        if self._aside:
            return
        self._aside = True
        if self._standing is not None:
            self._standing.release()
        self._standing, self._optimization = None, self.training.optimization
        self._encoder.standing = None
        warnings.warn(
            "hooks wait for the gradients of parameters: the fast engine launches steps kernel by kernel, for none of "
            "those that it replays would call them",
            FallBack,
            stacklevel=4,
        )


class CapturedExact(FollowsModel, MethodBase):
    """An exact method whose device work is captured: what both ways of doing so have in common.

    summed: whether gradients of several passes are summed before anything moves (see `stand`).
    """

    method: E2E | SingleStep

    def __init__(
        self, method: E2E | SingleStep, training: CapturingTraining, encoder: PackingEncoder, *, summed: bool = False
    ):
        self.name, self.exactness = method.name, method.exactness  # type: ignore[misc] # of this one
        self.training = training
        self.method = method
        self._encoder = encoder
        self._packer = Packer(encoder)
        make_capturable(training.optimization, training.device)
        self._pool = training.pool
        self._sums_passes = summed
        self._prepare()

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The method's own."""
        return self.method.encoded_items(batches)


class CapturedStep(CapturedExact):
    """A whole step is one graph."""

    def __init__(self, method: E2E | SingleStep, training: CapturingTraining, encoder: PackingEncoder):
        super().__init__(method, training, encoder)
        self._rows = Capacities(SMALLEST_ROWS)
        self._step = CapturedFunction(self._device_step, training.device, pool=self._pool)
        self.functions = (self._step,)
        forget_what_is_replaced(training.optimization, training.device, self.functions)

    def step(self, batch: Batch) -> Tensor:
        """One step of the method."""
        if not self._refresh():
            return self.method.step(batch)
        inputs, shared = self.host_inputs(batch)
        silent = self.training.silent
        (loss,) = self._step(inputs, history_length=batch.history_length, shared=shared, silent=silent)
        self._optimization.advance()
        forget_undecided(self._optimization, self._step)
        return loss.clone()

    def host_inputs(self, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        """The host's share of a step: deduplication, packing, who reads what; and whether from other processes, too."""
        with phase("host"):
            placed = self.training.placed(self.method.select(batch), batch, self._rows.fit)
            packed = self._packer.pack(self.training.table.take(placed.items), placed.rows, placed.tokens)
            rows = rows_of(packed) * (self.training.processes if placed.rows is not None else 1)
            return packed | slot_inputs(placed.batch, placed.slot_rows, rows), placed.rows is not None

    def _device_step(self, inputs: Inputs, history_length: int, shared: bool, silent: bool) -> Outputs:
        with phase("ce_forward"):
            encodings = self._encoder.encode(packed_texts(inputs))
        if isinstance(self._optimization, StandingOptimization) and self._optimization.joint is not None:
            encodings = passing_back(encodings, self._optimization.cf_gradients_are_there)
        if shared:
            encodings = self.training.spread(encodings)
        loss = self.method.backpropagate(encodings, gather_of(inputs), batch_of(inputs, history_length))
        self._optimization.move()
        return (loss,)


def passing_back(encodings: Tensor, notify: Callable[[], None]) -> Tensor:
    """The encodings; `notify` is called when their gradient has come, before it goes on to the encoder."""
    return _PassingBack.apply(encodings, notify)


class _PassingBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encodings: Tensor, notify: Callable[[], None]) -> Tensor:
        ctx.notify = notify
        return encodings.view_as(encodings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.notify()
        return gradient, None


class CapturedMultiStep(FollowsModel, MultiStep):
    """Multi-step GRAM with three graphs: encoding new items, a CF step, a CE minibatch.

    The CF step's graph reads moved encodings from the buffer and moves them there, that of a CE minibatch reads both
    parts; when the buffer has grown, that is other memory, for which they are captured anew.
    """

    def __init__(self, training: CapturingTraining, settings: MultiStepSettings | None, encoder: PackingEncoder):
        super().__init__(training, settings)
        self._encoder = encoder
        self._new_items, self._minibatch = NewItemsPacker(encoder), Packer(encoder)
        self._rows = Capacities(SMALLEST_ROWS)
        make_capturable(training.optimization, training.device)
        self._prepare()
        self._pool = training.pool
        self._encode = CapturedFunction(self._device_encode, training.device, pool=self._pool)
        self._cf = CapturedFunction(self._device_cf_step, training.device, pool=self._pool)
        self._ce = CapturedFunction(self._device_ce_step, training.device, pool=self._pool)
        self.functions = (self._encode, self._cf, self._ce)
        self._captured_buffer = self._buffer.tensors
        forget_what_is_replaced(training.optimization, training.device, self.functions)

    def _encode_items(self, items: Tensor, missing: Tensor) -> Tensor:
        if not self._refresh():
            return super()._encode_items(items, missing)
        most = self._buffer.most_tokens(missing)
        tokens = min(most, self._encode_budget or most)
        (encodings,) = self._encode(self._new_items.pack(self.training.table.take(items), tokens=tokens))
        return encodings[: len(items)]

    def _cf_step(self, selection: Selection, batch: Batch) -> Tensor:
        if self._aside:
            return super()._cf_step(selection, batch)
        self._follow_buffer()
        with phase("host"):
            held, row_of, room = self._buffer.place(selection.items, self._rows.fit)
            weighted = self.training.weighted(batch)
            slot_rows = mapped(selection.slot_rows[: weighted.users], row_of)
            inputs = slot_inputs(weighted, slot_rows, room * self.training.processes)
            inputs |= {"held": held, "rate": torch.tensor([self._rate(batch)], dtype=torch.float64)}
        (loss,) = self._cf(inputs, history_length=batch.history_length, silent=self.training.silent)
        self._optimization.advance(encoder=False)
        forget_undecided(self._optimization, self._cf)
        return loss.clone()

    def _ce_step(self, items: Tensor, buffer: EncodingBuffer) -> None:
        if not self._refresh():
            super()._ce_step(items, buffer)
            return
        self._follow_buffer()
        with phase("host"):
            held = buffer.owned(items)
            packed = self._minibatch.pack(self.training.table.take(held), tokens=buffer.most_tokens(items))
            inputs = packed | {"held": buffer.filled_up(buffer.rows_of(held), rows_of(packed))}
        self._ce(inputs, silent=self.training.silent)
        self._optimization.advance(cf=False)
        forget_undecided(self._optimization, self._ce)

    def _follow_buffer(self) -> None:
        if self._buffer.tensors[0] is not self._captured_buffer[0]:
            self._captured_buffer = self._buffer.tensors
            self._cf.forget()
            self._ce.forget()

    def _device_encode(self, inputs: Inputs) -> Outputs:
        with torch.no_grad(), phase("ce_forward"):
            return (self._encoder.encode(packed_texts(inputs)),)

    def _device_cf_step(self, inputs: Inputs, history_length: int, silent: bool) -> Outputs:
        """silent: what the graph is bound to beside its inputs; the training knows it by itself."""
        encoded, displacement = self._buffer.tensors
        held = inputs["held"]
        with phase("cf"):
            leaf = self.training.spread(encoded[held] + displacement[held]).requires_grad_()
            loss = self.training.loss(gather_of(inputs)(leaf), batch_of(inputs, history_length))
            loss.backward()
            gradient = self.training.collect(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            displacement.index_add_(0, held, gradient * -inputs["rate"].to(gradient.dtype))
        self._optimization.move(encoder=False)
        return (loss.detach(),)

    def _device_ce_step(self, inputs: Inputs, silent: bool) -> Outputs:
        with phase("ce_forward"):
            encodings = self._encoder.encode(packed_texts(inputs))
        with phase("ce_backward"):
            encoded, displacement = self._buffer.tensors
            held = inputs["held"]
            nobodys = held == self._buffer.capacity  # an empty text's encoding is no zero behind a head with a bias
            encodings = encodings.masked_fill(nobodys[:, None], 0.0)
            loss = pseudo_loss(encodings, encoded[held], displacement[held])
            if loss.requires_grad:  # not where the encoder is frozen
                loss.backward()
        self._optimization.move(cf=False)
        return (loss.detach(),)
