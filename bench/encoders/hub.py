"""`hub:NAME`: any encoder of the Hugging Face hub, from its local cache or over the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench.encoders._base import Dropout, Limits, LoadedEncoder, files_of

if TYPE_CHECKING:
    import torch

ASSETS: tuple[str, ...] = ()

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check(argument: str | None) -> None:
    """Raises ValueError unless the argument looks like a hub name; asks no network."""
    if argument is None or not _NAME.fullmatch(argument):
        raise ValueError(
            f'encoder "hub:{argument or ""}" must name a model of the hub, such as '
            '"hub:sentence-transformers/all-MiniLM-L6-v2"; a folder is "path:FOLDER"'
        )


def contents(argument: str | None) -> dict[str, list[Path] | str]:
    """The files of the revision that the local cache calls its newest; nothing where it has none yet."""
    from huggingface_hub import try_to_load_from_cache

    configuration = try_to_load_from_cache(str(argument), "config.json")
    return files_of(Path(configuration).parent) if isinstance(configuration, str) else {}


def limits(argument: str | None) -> Limits | None:
    """See `bench.encoders._base.limits`; asks no network."""
    from bench.encoders._huggingface import limits_of

    return limits_of(str(argument))


def load(
    argument: str | None,
    *,
    layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    dropout: Dropout,
) -> LoadedEncoder:
    """See `bench.encoders._base.load`. Raises ValueError where the hub cannot be reached and nothing is cached."""
    from bench.encoders._huggingface import load_pretrained

    check(argument)
    name = str(argument)
    try:
        return load_pretrained(name, name=name, layers=layers, device=device, dtype=dtype, dropout=dropout)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'encoder "hub:{name}" could not be loaded ({reason}); download it where there is a network with '
            f'`hf download {name} --local-dir FOLDER` and use "path:FOLDER"'
        ) from error
