"""Paths in a configuration: absolute once it is read, so that what a run holds is found again from any directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StrictStr

_FOLDER = "path"
"""The scheme of encoders that lie in a folder: `path:FOLDER`."""


def absolute(path: str) -> str:
    """The path from the root, with `~` written out; links in it stay."""
    return str(Path(path).expanduser().absolute())


def absolute_encoder(name: str) -> str:
    """`path:FOLDER` with its folder's absolute path; any other encoder as it is."""
    scheme, _, folder = name.partition(":")
    return f"{scheme}:{absolute(folder)}" if scheme == _FOLDER and folder else name


DataPath = Annotated[str, AfterValidator(absolute)]
"""A file or folder that a workload reads."""
EncoderName = Annotated[StrictStr, AfterValidator(absolute_encoder)]
