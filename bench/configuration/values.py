"""What tables of the configuration have in common: kinds of values, paths that any directory finds again."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

Count = Annotated[StrictInt, Field(ge=1)]
Seconds = Annotated[StrictFloat, Field(gt=0)]

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


class Table(BaseModel):
    """A table: frozen, without keys that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_list(value: Any) -> Any:
    """A single value as a list of it."""
    return [value] if isinstance(value, str | int | float) else value


def is_steps(value: Any) -> bool:
    """Whether it is a number of steps, or a share of an epoch such as "0.5E"."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"(\d+(\.\d*)?|\.\d+)E", value)) and float(value[:-1]) > 0
    return type(value) is int and value >= 1
