"""The fast engine: real tokens only, compiled layers, whole steps replayed from CUDA graphs.

Every method gets the same of it. On a GPU the encoder runs packed (`encoders.packed`) and a step's device work
(encoder, CF module, backward, optimizers) is one captured graph per token bucket; where an encoder can't run
packed, and on a CPU, texts run padded in buckets of like length (`encoders.bucketed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gram_core.batch import Batch
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder, unsupported
from gram_core.engines._captured import CapturedFunction, Inputs
from gram_core.kernels.segments import gather_rows
from gram_core.methods.e2e import E2E
from gram_core.methods.single_step import SingleStep
from gram_core.packing import PackedTexts, readers
from gram_core.protocols import Exactness, Method
from gram_core.training import Training

SMALLEST_STEP = 256
"""Token capacities are multiples of this at least."""


def build(method: type, training: Training, settings: Any) -> Method:
    """The method on the fastest encoder that its device and model allow, captured where that is possible."""
    encoder = training.encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        return method(training, settings)
    if training.device.type != "cuda" or unsupported(encoder) is not None:
        return method(replace(training, encoder=BucketedEncoder(encoder)), settings)
    compute = torch.bfloat16 if training.amp_dtype is torch.bfloat16 else None
    fast = replace(training, encoder=PackedEncoder(encoder, compute, compiled=True))
    built = method(fast, settings)
    if isinstance(built, (E2E, SingleStep)) and not getattr(built.settings, "chunk_tokens", None):
        return CapturedStep(built, fast)
    return built


def capacity(count: int, smallest: int) -> int:
    """`count` rounded up to a bucket: sixteen buckets per doubling, none smaller than `smallest`."""
    step = max(smallest, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


class CapturedStep:
    """An exact method whose steps are captured: the host selects and packs, the device replays."""

    def __init__(self, method: E2E | SingleStep, training: Training):
        assert isinstance(training.encoder, PackedEncoder)
        self.method = method
        self.name = method.name
        self.exactness: Exactness = method.exactness
        self.training = training
        self._encoder = training.encoder
        self._history_length = 0
        if training.device.type == "cuda":
            _make_capturable(training)
        self._step = CapturedFunction(self._device_step, training.device)

    @property
    def interval(self) -> int:
        """The method's own."""
        return self.method.interval

    def step(self, batch: Batch) -> Tensor:
        """One step of the method."""
        self._history_length = batch.history_length
        loss = self._step(self._host_inputs(batch))
        self.training.optimization.advance()
        return loss.clone()

    def finish(self) -> None:
        """Nothing is pending between steps."""
        self.method.finish()

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The method's own."""
        return self.method.encoded_items(batches)

    def _host_inputs(self, batch: Batch) -> dict[str, Tensor]:
        selection = self.method.select(batch)
        texts = self.training.table.texts(selection.items)
        rows = capacity(len(texts), 16)
        packed = self._encoder.pack(texts, capacity(len(texts.tokens), SMALLEST_STEP), rows)
        readings = readers(selection.slot_rows, rows)
        return {
            "tokens": packed.tokens,
            "positions": packed.positions,
            "text_of": packed.text_of,
            "offsets": packed.offsets,
            "groups": packed.groups,
            "slot_rows": readings.slot_rows,
            "slots": readings.slots,
            "reader_offsets": readings.offsets,
            "items": batch.items.to(torch.int32),
            "mask": batch.mask.to(torch.int32),
            "targets": batch.targets,
        }

    def _device_step(self, inputs: Inputs) -> Tensor:
        packed = PackedTexts(*(inputs[name] for name in ("tokens", "positions", "text_of", "offsets", "groups")))
        shape = inputs["items"].shape
        batch = Batch(inputs["items"].long(), inputs["mask"].bool(), inputs["targets"], self._history_length)

        def gather(encodings: Tensor) -> Tensor:
            rows = gather_rows(encodings, inputs["slot_rows"], inputs["slots"], inputs["reader_offsets"])
            return rows.view(*shape, encodings.shape[1])

        loss = self.method.backpropagate(self._encoder.encode(packed), gather, batch)
        self.training.optimization.move()
        return loss


def _make_capturable(training: Training) -> None:
    """Optimizers count steps and read learning rates on the device, where they can."""
    optimization = training.optimization
    for optimizer, scheduler in (
        (optimization.encoder_optimizer, optimization.encoder_scheduler),
        (optimization.cf_optimizer, optimization.cf_scheduler),
    ):
        for group in optimizer.param_groups if optimizer is not None else ():
            if "capturable" in group:
                group["capturable"] = True
            if scheduler is not None and not isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(float(group["lr"]), device=training.device)
