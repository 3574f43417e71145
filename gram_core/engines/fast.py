"""The fast engine: real tokens only, passes of few launches, whole steps replayed from CUDA graphs.

Every method gets the same encoder: packed (`encoders.packed`) or, where one can't run packed, padded in buckets of
like length (`encoders.bucketed`). On a GPU the device work of a step of end-to-end training and of GRAM alike
(encoder, CF module, backward, optimizers) is one captured graph per token bucket, or a few where chunks of a batch pass
one after the other. Of other methods' steps the CF step is, where they take it by itself (`Training.cf_step`); all else
is launched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder, unsupported
from gram_core.engines._captured_chunks import CapturedChunkedStep
from gram_core.engines._captured_methods import CapturedMultiStep, CapturedStep
from gram_core.methods.e2e import E2E
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.protocols import Method
from gram_core.training import Training


def build(method: type, training: Training, settings: Any) -> Method:
    """The method on the fastest encoder that its device and model allow, captured where that is possible."""
    encoder = training.encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        return method(training, settings)
    if unsupported(encoder) is not None:
        return method(replace(training, encoder=BucketedEncoder(encoder)), settings)
    packed = PackedEncoder(encoder, torch.bfloat16 if training.amp_dtype is torch.bfloat16 else None)
    if training.device.type != "cuda":
        return method(replace(training, encoder=packed), settings)
    return build_packed(method, training, settings, packed)


def build_packed(method: type, training: Training, settings: Any, encoder: PackedEncoder) -> Method:
    """The method on a packed encoder; its steps are captured where device and training allow it."""
    packed = replace(training, encoder=encoder)
    if not packed.capturable:
        return method(packed, settings)
    capturing = packed.capturing()
    if method is MultiStep:
        return CapturedMultiStep(capturing, settings, encoder)
    built = method(capturing, settings)
    if not isinstance(built, (E2E, SingleStep)):
        return built
    if isinstance(built, SingleStep) and built.settings.chunk_tokens:
        if training.optimization.joint is not None:
            return built  # ranks have unequally many chunks, whose graphs would hold no exchange
        return CapturedChunkedStep(built, capturing, encoder)
    return CapturedStep(built, capturing, encoder)
