"""Weights of a folder: safetensors, or torch's own files read as tensors alone, whose pickles never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.encoders._folder import read_json


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a small module's folder, by name. Raises ValueError where there are none."""
    return _one_of(folder, "model.safetensors", "pytorch_model.bin")


def read_adapters(folder: Path) -> dict[str, Tensor]:
    """The same of adapters."""
    return _one_of(folder, "adapter_model.safetensors", "adapter_model.bin")


def _one_of(folder: Path, safe: str, pickles: str) -> dict[str, Tensor]:
    if (folder / safe).is_file():
        try:
            with torch._C.DisableTorchFunction():  # as of `_read`
                return load_file(folder / safe)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / safe} is damaged: {error}") from error
    found = pickled(folder, pickles)
    if found is None:
        raise ValueError(f"{folder} holds neither {safe} nor {pickles}")
    return found


def pickled(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of `name` or, as its index `name`.index.json says, of several files; None where there is neither.

    Raises ValueError for a file that holds anything else: nothing of it is executed.
    """
    index = folder / f"{name}.index.json"
    files = [folder / name]
    if index.is_file():
        files = [folder / part for part in sorted(set(read_json(index).get("weight_map", {}).values()))]
    elif not files[0].is_file():
        return None
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _read(file)
    return found


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with torch._C.DisableTorchFunction():  # a mode that changes dtypes must not meet the storage's bytes
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{file} holds more than tensors, or is damaged; its code is not run: save it as safetensors "
            "(model.save_pretrained)"
        ) from error
    except OSError as error:
        raise ValueError(f"{file}: cannot read it ({error.strerror})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no weights by name: save it as safetensors (model.save_pretrained)")
    return state
