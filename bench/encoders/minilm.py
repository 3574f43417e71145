"""`minilm`: all-MiniLM-L6-v2, real weights and tokenizer; 6 layers, d 384, 22.6 million parameters, pooled by mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.encoders._base import Dropout, Files, Limits, LoadedEncoder, asset_files, no_argument
from bench.inputs import assets

if TYPE_CHECKING:
    import torch

    from gram_core.encoders.pooling import Pooling

ASSETS = ("minilm",)


def check(argument: str | None) -> None:
    """Raises ValueError where an argument is given."""
    no_argument("minilm", argument)


def contents(argument: str | None) -> Files:
    """The asset's files."""
    return asset_files("minilm")


def limits(argument: str | None) -> Limits:
    """See `bench.encoders._base.limits`."""
    return Limits(512, has_tokenizer=True)


def pooling(argument: str | None) -> Pooling:
    """What it is published with."""
    return "mean"


def load(
    argument: str | None,
    *,
    layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    dropout: Dropout,
) -> LoadedEncoder:
    """See `bench.encoders._base.load`; the seed is not used, no weight is random."""
    from bench.encoders._huggingface import load_pretrained

    folder = assets.fetch("minilm")
    loaded = load_pretrained(
        folder, name="all-MiniLM-L6-v2", layers=layers, device=device, dtype=dtype, dropout=dropout
    )
    return replace(loaded, pooling=pooling(argument))
