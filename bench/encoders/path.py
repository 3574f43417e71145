"""`path:DIR`: an encoder in a local folder, as `save_pretrained` or `hf download --local-dir` leave it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.encoders._base import Dropout, Limits, LoadedEncoder, files_of

if TYPE_CHECKING:
    import torch

ASSETS: tuple[str, ...] = ()


def check(argument: str | None) -> None:
    """Raises ValueError unless the argument is a folder that holds a `config.json`."""
    if not argument:
        raise ValueError('encoder "path" must name a folder: "path:FOLDER"')
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise ValueError(f'encoder "path:{argument}": there is no folder {folder.absolute()}')
    if not (folder / "config.json").is_file():
        raise ValueError(f'encoder "path:{argument}": {folder.absolute()} holds no config.json, so it is no model')


def contents(argument: str | None) -> dict[str, list[Path] | str]:
    """The folder's files."""
    return files_of(Path(str(argument)).expanduser())


def limits(argument: str | None) -> Limits | None:
    """See `bench.encoders._base.limits`; a folder that is no model is `load`'s to refuse."""
    from bench.encoders._huggingface import limits_of

    return limits_of(Path(str(argument)).expanduser())


def load(
    argument: str | None,
    *,
    layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    dropout: Dropout,
) -> LoadedEncoder:
    """See `bench.encoders._base.load`. Raises ValueError where the folder's files are no model."""
    from bench.encoders._huggingface import load_pretrained

    check(argument)
    folder = Path(str(argument)).expanduser()
    try:
        return load_pretrained(folder, name=folder.name, layers=layers, device=device, dtype=dtype, dropout=dropout)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'encoder "path:{argument}" could not be loaded: {reason}') from error
