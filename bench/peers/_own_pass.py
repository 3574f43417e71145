"""For peers that do not run the engine's encoder but a pass of their own: what they run instead, and its proof."""

from typing import Any

from bench.methods import Unavailable
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.probe import evaluating
from gram_core.encoders.proof import Encode, differs, few_texts
from gram_core.training import Training

PARTS_IN_FLOAT32 = 1e-5
"""Models of any dtype compute rotary positions and root-mean-square norms in float32."""


def huggingface_encoder(training: Training, method: str) -> HuggingFaceEncoder:
    """The encoder that the engine was given. Raises Unavailable where that is none of Hugging Face's."""
    encoder: Any = training.encoder
    while not isinstance(encoder, HuggingFaceEncoder) and hasattr(encoder, "encoder"):
        encoder = encoder.encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        given = type(training.encoder).__qualname__
        raise Unavailable(f"{method} needs a Hugging Face model, and the encoder is a {given}")
    return encoder


def difference(tried: Encode, own: Encode, encoder: HuggingFaceEncoder, training: Training) -> str | None:
    """What `tried` leaves of a few of the table's texts otherwise than `own`, the encoder's pass; None: nothing."""
    texts = few_texts(training.table, encoder.text_length)
    if texts is None:
        return None
    with evaluating(encoder):
        return differs(tried, own, encoder, texts, training.amp_dtype, PARTS_IN_FLOAT32)


def prove(method: str, tried: Encode, own: Encode, encoder: HuggingFaceEncoder, training: Training) -> None:
    """Raises Unavailable where there is a `difference`."""
    reason = difference(tried, own, encoder, training)
    if reason is not None:
        kind = encoder.model.config.model_type
        raise Unavailable(f"{method} does not leave what the encoder, a {kind}, leaves: {reason}")
