"""The fast engine: real tokens only, passes of few launches, whole steps replayed from CUDA graphs.

Every method gets the same encoder, by the fastest tier that holds for it (`_tiers`): packed (`encoders.packed`), padded
in buckets of like length (`encoders.bucketed`), or as it was given. On a GPU the device work of a step of end-to-end
training and of GRAM alike (encoder, CF module, backward, optimizers) is one captured graph per token bucket, or a few
where chunks of a batch pass one after the other. Of other methods' steps the CF step is, where they take it by itself
(`Training.cf_step`); all else is launched.
"""

from dataclasses import replace
from typing import Any

from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.engines._captured_chunks import CapturedChunkedStep
from gram_core.engines._captured_methods import CapturedMultiStep, CapturedStep
from gram_core.engines._tiers import choose
from gram_core.methods.e2e import E2E
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.protocols import Method
from gram_core.training import Training


def build(method: type, training: Training, settings: Any) -> Method:
    """The method on the fastest encoder that its device and model allow, captured where that is possible.

    `tier` of the method says which that is, and why no faster one; where there is a reason, a warning says so too.
    """
    encoder, ran = choose(training)
    if isinstance(encoder, PackingEncoder) and training.device.type == "cuda":
        built: Any = build_packed(method, training, settings, encoder)
    else:
        built = method(replace(training, encoder=encoder), settings)
    built.tier = ran
    return built


def build_packed(method: type, training: Training, settings: Any, encoder: PackingEncoder) -> Method:
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
