"""Methods whose device work is captured: the host selects and packs the next step while the device replays this one.

U unique items (capacity), d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gram_core.batch import Batch
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.standing import StandingOptimization
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.engines._capturable import Bound, forget_what_is_replaced, make_capturable, stand
from gram_core.engines._captured import CapturedFunction, Inputs, Outputs
from gram_core.engines._captured_cf import CapturingTraining
from gram_core.engines._inputs import (
    NewItemsPacker,
    Packer,
    batch_of,
    filled_up,
    gather_of,
    packed_texts,
    rows_of,
    slot_inputs,
)
from gram_core.engines._told import Captured
from gram_core.methods.e2e import E2E
from gram_core.methods.multi_step import MultiStep, pseudo_loss
from gram_core.methods.single_step import SingleStep
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class FollowsModel(Captured):
    """Captured work on an encoder that may be changed between steps. summed: see `stand`."""

    training: Training
    _encoder: PackedEncoder
    _standing: StandingOptimization | None = None
    _sums_passes = False

    def _prepare(self) -> None:
        """Decides by the model as it is now how its weights stand."""
        if self._standing is not None:
            self._standing.release()
        self._standing = stand(self.training, self._encoder, summed=self._sums_passes)
        self._optimization = self._standing or self.training.optimization
        self._bound = Bound(self.training, self._encoder)

    def _refresh(self) -> bool:
        """Follows what was changed from outside since the last step; False: the packed pass holds no longer for it."""
        if not self._encoder.holds():
            return False
        if not self._bound.holds():
            self._prepare()
            for function in self.functions:
                function.forget()
        if self._standing is not None:
            self._standing.refresh()
        return True


class CapturedExact(FollowsModel):
    """An exact method whose device work is captured: what both ways of doing so have in common.

    summed: whether gradients of several passes are summed before anything moves (see `stand`).
    """

    method: E2E | SingleStep

    def __init__(
        self, method: E2E | SingleStep, training: CapturingTraining, encoder: PackedEncoder, *, summed: bool = False
    ):
        self.name: str = method.name
        self.exactness: Exactness = method.exactness
        self.training = training
        self.method = method
        self._encoder = encoder
        self._packer = Packer(encoder)
        make_capturable(training.optimization, training.device)
        self._pool = training.pool
        self._sums_passes = summed
        self._prepare()

    @property
    def interval(self) -> int:
        """The method's own."""
        return self.method.interval

    def finish(self) -> None:
        """Nothing is pending between steps."""
        self.method.finish()

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The method's own."""
        return self.method.encoded_items(batches)


class CapturedStep(CapturedExact):
    """A whole step is one graph."""

    def __init__(self, method: E2E | SingleStep, training: CapturingTraining, encoder: PackedEncoder):
        super().__init__(method, training, encoder)
        self._step = CapturedFunction(self._device_step, training.device, pool=self._pool)
        self.functions = (self._step,)
        forget_what_is_replaced(training.optimization, training.device, self.functions)

    def step(self, batch: Batch) -> Tensor:
        """One step of the method."""
        if not self._refresh():
            return self.method.step(batch)
        (loss,) = self._step(self.host_inputs(batch), history_length=batch.history_length)
        self._optimization.advance()
        return loss.clone()

    def host_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The host's share of a step: deduplication, packing, who reads what."""
        with phase("host"):
            selection = self.method.select(batch)
            packed = self._packer.pack(self.training.table.texts(selection.items))
            return packed | slot_inputs(batch, selection.slot_rows, rows_of(packed))

    def _device_step(self, inputs: Inputs, history_length: int) -> Outputs:
        with phase("ce_forward"):
            encodings = self._encoder.encode(packed_texts(inputs))
        loss = self.method.backpropagate(encodings, gather_of(inputs), batch_of(inputs, history_length))
        self._optimization.move()
        return (loss,)


class CapturedMultiStep(FollowsModel, MultiStep):
    """Multi-step GRAM with three graphs: encoding new items, a CF step, a CE minibatch."""

    def __init__(self, training: CapturingTraining, settings: MultiStep.Settings | None, encoder: PackedEncoder):
        super().__init__(training, settings)
        self._encoder = encoder
        self._new_items, self._minibatch = NewItemsPacker(encoder), Packer(encoder)
        make_capturable(training.optimization, training.device)
        self._prepare()
        self._pool = training.pool
        self._encode = CapturedFunction(self._device_encode, training.device, pool=self._pool)
        self._ce = CapturedFunction(self._device_ce_step, training.device, pool=self._pool)
        self.functions = (self._encode, *training.capture().functions, self._ce)
        forget_what_is_replaced(training.optimization, training.device, self.functions)

    def _encode_items(self, items: Tensor) -> Tensor:
        if not self._refresh():
            return super()._encode_items(items)
        (encodings,) = self._encode(self._new_items.pack(self.training.table.texts(items)))
        return encodings[: len(items)]

    def _ce_step(self, items: Tensor, buffer: EncodingBuffer) -> None:
        if not self._refresh():
            super()._ce_step(items, buffer)
            return
        packed = self._minibatch.pack(self.training.table.texts(items))
        encoded, displacement = (filled_up(part, rows_of(packed)) for part in buffer.read(items))
        self._ce(packed | {"encoded": encoded, "displacement": displacement})
        (self._standing or self.training.optimization).advance(cf=False)

    def _device_encode(self, inputs: Inputs) -> Outputs:
        with torch.no_grad(), phase("ce_forward"):
            return (self._encoder.encode(packed_texts(inputs)),)

    def _device_ce_step(self, inputs: Inputs) -> Outputs:
        with phase("ce_forward"):
            encodings = self._encoder.encode(packed_texts(inputs))
        with phase("ce_backward"):
            loss = pseudo_loss(encodings, inputs["encoded"], inputs["displacement"])
            loss.backward()
        (self._standing or self.training.optimization).move(cf=False)
        return (loss.detach(),)
