"""Loading Hugging Face models as encoders: first layers only, no pooler, explicit dtype, dropout as asked for."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from bench.encoders._base import Dropout, FileTokenizer, Limits, LoadedEncoder, Tokenizer, TransformersTokenizer

POSITIONS_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
"""Families that count positions from the padding id + 1."""

UNBOUNDED = 1 << 20
"""Longest text of a model without a table of positions."""

_DTYPE_WORDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_pretrained(
    source: str | Path,
    *,
    name: str,
    layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    dropout: Dropout,
    tokenizer: Tokenizer | None = None,
) -> LoadedEncoder:
    """The model of a folder or hub name with its own weights. Raises OSError where there is none."""
    local = Path(source).is_dir()
    with _quiet():
        config = AutoConfig.from_pretrained(source)
        depth = keep_first_layers(config, layers, name)
        set_dropout(config, dropout)
        model = AutoModel.from_pretrained(source, config=config, dtype=dtype, attn_implementation=_attention(config))
        if tokenizer is None:
            tokenizer = _own_tokenizer(source)
    stored = stored_dtype(Path(source)) if local else None
    stored = stored or str(getattr(config, "dtype", None) or "an unstated type").removeprefix("torch.")
    model.to(device)
    return _finish(
        model,
        weights="real",
        description=f"{name}: {depth}, real weights stored in {stored}",
        tokenizer=tokenizer,
        ends=_ends(tokenizer),
        special=tokenizer.special_token_ids if tokenizer else frozenset(),
    )


def build_random(
    config: PretrainedConfig,
    *,
    name: str,
    layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    dropout: Dropout,
    tokenizer: Tokenizer | None,
    ends: tuple[int, int],
    special_token_ids: frozenset[int],
) -> LoadedEncoder:
    """A model of this configuration with random weights, drawn on `device` from `seed`; no other random state moves.

    ends: what a text opens and closes with.
    """
    depth = keep_first_layers(config, layers, name)
    set_dropout(config, dropout)
    devices = [device] if device.type == "cuda" else []
    with _quiet(), torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=dtype, attn_implementation=_attention(config))
    model.to(device)
    return _finish(
        model,
        weights="random",
        description=f"{name}: {depth}, random weights",
        tokenizer=tokenizer,
        ends=ends,
        special=special_token_ids,
    )


def limits_of(source: str | Path) -> Limits | None:
    """What the model of a folder, or a hub name that is in the local cache, can be given; None where there is none."""
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Limits(longest_text(config), not Path(source).is_dir() or _own_tokenizer(source) is not None)


def longest_text(config: PretrainedConfig) -> int:
    """Tokens that a model's positions allow."""
    longest: int = getattr(config, "max_position_embeddings", None) or UNBOUNDED
    if config.model_type in POSITIONS_BEHIND_PADDING:
        longest -= (config.pad_token_id or 0) + 1
    return longest


def keep_first_layers(config: PretrainedConfig, layers: int | None, name: str) -> str:
    """Cuts the configuration to its first `layers` layers; says what it has then. Raises ValueError out of range."""
    total = config.num_hidden_layers
    if layers is None:
        return f"{total} layer{'s' * (total != 1)}"
    if not 1 <= layers <= total:
        raise ValueError(
            f"{name} has {total} layer{'s' * (total != 1)}; layers = {layers} must be between 1 and {total}"
        )
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[:layers]
    config.num_hidden_layers = layers
    return f"first {layers} of {total} layers"


def set_dropout(config: PretrainedConfig, dropout: Dropout) -> None:
    """Sets every dropout probability of the configuration, unless it is to keep its own ("shared")."""
    if dropout is None or dropout == "shared":
        return
    probability = 0.0 if dropout == "off" else float(dropout)
    for key, value in config.to_dict().items():
        if ("drop" in key or key.endswith("_pdrop")) and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, key, probability)


def stored_dtype(folder: Path) -> str | None:
    """The floating type most elements of a folder's safetensors are stored in; None where it holds none."""
    elements: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for key, entry in header.items():
            if key != "__metadata__" and entry["dtype"] in _DTYPE_WORDS:
                start, stop = entry["data_offsets"]
                elements[entry["dtype"]] += stop - start
    return _DTYPE_WORDS[elements.most_common(1)[0][0]] if elements else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' bars and its table of unread weights (those of the layers left out) off the terminal."""
    verbosity, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bar:
            transformers.logging.enable_progress_bar()


def _attention(config: PretrainedConfig) -> str:
    """sdpa wherever the model has it (MPNet's relative positions have none)."""
    model_class = AutoModel._model_mapping.get(type(config), None)
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def _own_tokenizer(source: str | Path) -> Tokenizer | None:
    file = Path(source) / "tokenizer.json"
    if file.is_file():
        return FileTokenizer(file)
    try:
        found = TransformersTokenizer(AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError, KeyError, ImportError):
        return None  # an encoder without tokenizer still runs on synthetic texts
    understood = set(found.encode(["the film"])[0]) - found.special_token_ids
    return found if understood else None  # where no file is, transformers makes one up that knows no word


def _ends(tokenizer: Tokenizer | None) -> tuple[int | None, int | None]:
    """What the tokenizer opens and closes a text with, read off the empty text."""
    if tokenizer is None:
        return None, None
    empty, text = tokenizer.encode(["", "a"])
    opens = bool(empty) and text[0] == empty[0]
    closes = len(empty) > opens and text[-1] == empty[-1]
    return empty[0] if opens else None, empty[-1] if closes else None


def _finish(
    model: PreTrainedModel,
    *,
    weights: Literal["real", "random"],
    description: str,
    tokenizer: Tokenizer | None,
    ends: tuple[int | None, int | None],
    special: frozenset[int],
) -> LoadedEncoder:
    if getattr(model, "pooler", None) is not None:
        model.register_module(
            "pooler", None
        )  # its parameters would get no gradient: encodings are pooled from the last layer
    config: Any = model.config
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    return LoadedEncoder(
        model=model,
        tokenizer=tokenizer,
        pad_token_id=pad,
        opening_token_id=ends[0],
        closing_token_id=ends[1],
        special_token_ids=special | {token for token in (pad, *ends) if token is not None},
        vocab_size=config.vocab_size,
        longest_text=longest_text(config),
        weights=weights,
        description=f"{description}, d {config.hidden_size}, {config._attn_implementation} attention",
    )
