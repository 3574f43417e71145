"""Modes that differ from what their owner may think: a model that is evaluated while it is trained."""

from __future__ import annotations

import warnings

from torch import nn


class IdleDropout(UserWarning):
    """Dropout that does not act."""


def tell_idle_dropout(encoder: nn.Module, model: nn.Module) -> None:
    """Warns where `model` has dropout that does not act, though the encoder around it is not evaluated: as
    `from_pretrained` hands models over. Who means that says `encoder.eval()`, or sets dropout to 0."""
    if not encoder.training:
        return
    if any(part.p > 0 and not part.training for part in model.modules() if isinstance(part, nn.Dropout)):
        warnings.warn(
            "the encoder's model is in evaluation mode, as from_pretrained leaves it: its dropout does not act; call "
            "encoder.train() to train with dropout, or encoder.eval() to train without",
            IdleDropout,
            stacklevel=4,
        )
