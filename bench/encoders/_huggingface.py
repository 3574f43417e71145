"""Loading Hugging Face models as encoders: first layers only, no pooler, explicit dtype, dropout as asked for."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from bench.encoders import _base as encoders
from bench.encoders._adapter import with_adapters_of
from bench.encoders._base import Dropout, LoadedEncoder, Loading, PictureFormat, Tokenizer
from bench.encoders._folder import MODULES_FILE, EncoderFolder, base_of, has_own_code, open_folder
from bench.encoders._model_files import attention_of, config_of, ends_of, model_of, own_tokenizer, refuse_unknown_ids
from gram_core.encoders.pictures import PicturePooling
from gram_core.encoders.probe import probe

UNBOUNDED = 1 << 20
"""Longest text of a model without a table of positions."""

_DTYPE_WORDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_pretrained(source: str | Path, asked: Loading, *, name: str) -> LoadedEncoder:
    """The model of a folder with its own weights, or with its adapters on their base model.

    Raises ValueError, saying what to do, where the folder holds no encoder of texts, weights that are not the model's,
    or a tokenizer that is not.
    """
    folder = open_folder(Path(source))
    if folder.adapter is not None:
        base = encoders.load(base_of(folder, asked.base), replace(asked, seed=0, base=None))
        return _adapted(folder, base, name, asked.dropout)
    assert folder.model is not None, "what is no adapter is a model"
    with _quiet():
        config = config_of(folder.model)
        depth = keep_first_layers(config, asked.layers, name)
        set_dropout(config, asked.dropout)
        model: Any = model_of(folder.model, config, asked.dtype)
        tokenizer, remark = own_tokenizer(folder.model)
    stored = stored_dtype(folder.model) or str(getattr(config, "dtype", None) or "a type that is not stated")
    aside = f", by transformers' own {config.model_type}, not its folder's code" if has_own_code(folder.model) else ""
    model.to(asked.device)
    return _finish(
        model,
        weights="real",
        description=f"{name}: {depth}, real weights stored in {stored.removeprefix('torch.')}{remark}{aside}",
        tokenizer=tokenizer,
        ends=ends_of(tokenizer),
        special=tokenizer.special_token_ids if tokenizer else frozenset(),
        folder=folder,
    )


def _adapted(folder: EncoderFolder, base: LoadedEncoder, name: str, dropout: Dropout) -> LoadedEncoder:
    """`base` with the adapters of a folder, and with the tokenizer of the folder where it has one."""
    assert folder.adapter is not None, "asked for adapters"
    dtype, device = base.model.dtype, base.model.device
    adapted, adapters = with_adapters_of(base.model, folder.adapter, dropout)
    model: Any = adapted
    with _quiet():
        tokenizer, remark = own_tokenizer(folder.root)
    described = f"{name}: {adapters}{remark} on {base.description}"
    changed = replace(base, model=model.to(device, dtype), description=described)
    if tokenizer is not None:
        refuse_unknown_ids(tokenizer, base.vocab_size)
        opening, closing = ends_of(tokenizer)
        ends = {token for token in (base.pad_token_id, opening, closing) if token is not None}
        changed = replace(
            changed,
            tokenizer=tokenizer,
            opening_token_id=opening,
            closing_token_id=closing,
            special_token_ids=tokenizer.special_token_ids | ends,
        )
    says = (folder.root / MODULES_FILE).is_file() or base.folder is None
    return replace(changed, folder=folder if says else base.folder)


def build_random(
    config: PretrainedConfig,
    asked: Loading,
    *,
    name: str,
    tokenizer: Tokenizer | None,
    ends: tuple[int | None, int | None],
    special_token_ids: frozenset[int],
    pooling: PicturePooling | None = None,
    picture: PictureFormat | None = None,
) -> LoadedEncoder:
    """A model of this configuration with random weights, drawn from the seed; no other random state moves.

    ends: what a text opens and closes with. pooling: as the model is published. picture: what it reads, if no texts.
    """
    depth = keep_first_layers(config, asked.layers, name)
    set_dropout(config, asked.dropout)
    devices = [asked.device] if asked.device.type == "cuda" else []
    with _quiet(), torch.random.fork_rng(devices), torch.device(asked.device):
        torch.manual_seed(asked.seed)
        model = AutoModel.from_config(config, dtype=asked.dtype, attn_implementation=attention_of(config))
    model.to(asked.device)
    if picture is not None:
        return _of_pictures(model, f"{name}: {depth}, random weights", picture, pooling)
    return _finish(
        model,
        weights="random",
        description=f"{name}: {depth}, random weights",
        tokenizer=tokenizer,
        ends=ends,
        special=special_token_ids,
        pooling=pooling,
    )


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
    try:
        config.num_hidden_layers = layers
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(f"a {config.model_type} cannot be cut to its first layers; set sweep.layers to all") from error
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


def _of_pictures(
    model: PreTrainedModel, description: str, picture: PictureFormat, pooling: PicturePooling | None
) -> LoadedEncoder:
    """It has no words; its head goes where a pooling takes the head's place (`gram_core.encoders.pictures`)."""
    config: Any = model.config
    return LoadedEncoder(
        model=model,
        longest_text=picture.tokens,
        weights="random",
        description=f"{description}, d {config.hidden_size}, {config._attn_implementation} attention",
        pooling=pooling,
        picture=picture,
    )


def _finish(
    model: PreTrainedModel,
    *,
    weights: Literal["real", "random"],
    description: str,
    tokenizer: Tokenizer | None,
    ends: tuple[int | None, int | None],
    special: frozenset[int],
    folder: EncoderFolder | None = None,
    pooling: PicturePooling | None = None,
) -> LoadedEncoder:
    if getattr(model, "pooler", None) is not None:
        model.register_module(
            "pooler", None
        )  # its parameters would get no gradient: encodings are pooled from the last layer
    config: Any = model.config
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    if folder is not None and tokenizer is not None:
        refuse_unknown_ids(tokenizer, rows)
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    longest, causal = getattr(config, "max_position_embeddings", None) or UNBOUNDED, pooling == "last"
    if longest <= 0:
        longest = UNBOUNDED
    if model.device.type != "meta":
        try:
            found = probe(model, pad)
        except ValueError as error:
            raise ValueError(f"a {config.model_type} cannot encode texts here: {error}") from error
        if found.width != config.hidden_size:
            raise ValueError(f"a {config.model_type} gives states of width {found.width}, not {config.hidden_size}")
        longest, causal = min(longest, found.longest or longest), found.causal
    return LoadedEncoder(
        model=model,
        tokenizer=tokenizer,
        pad_token_id=pad,
        opening_token_id=ends[0],
        closing_token_id=ends[1],
        special_token_ids=frozenset(
            token for token in (*special, pad, *ends) if token is not None and token < config.vocab_size
        ),
        vocab_size=rows if folder is not None else config.vocab_size,
        longest_text=longest,
        weights=weights,
        description=f"{description}, d {config.hidden_size}, {config._attn_implementation} attention",
        causal=causal,
        folder=folder,
        pooling=pooling,
    )
