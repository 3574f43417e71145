"""A model of transformers from a folder's files: the one they are of, all of its weights, nothing executed."""

import pickle
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from bench.encoders._base import BackendTokenizer, FileTokenizer, Tokenizer, TransformersTokenizer
from bench.encoders._folder import read_json

_READS = {"pixel_values": "pictures", "input_values": "sound", "input_features": "sound"}


def config_of(folder: Path) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"transformers cannot read its config.json: {first_line(error)}") from error
    if any(getattr(config, part, None) is not None for part in ("vision_config", "audio_config")):
        raise ValueError(
            f"a {config.model_type} reads more than texts; save its text model alone (model.text_model or "
            "model.language_model, by save_pretrained) and name that folder"
        )
    chosen = _classes(config)
    if not chosen:
        raise ValueError(f"transformers has no plain encoder of type {config.model_type}; name an encoder of texts")
    for model_class in chosen:
        if model_class.main_input_name != "input_ids":
            read = _READS.get(model_class.main_input_name, model_class.main_input_name)
            raise ValueError(f"a {config.model_type} reads {read} and not texts; name an encoder of texts")
    return config


def _classes(config: PretrainedConfig) -> tuple[Any, ...]:
    """What may be built from a configuration; several where its `architectures` decide."""
    found = _source(config)._model_mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)


def _source(config: PretrainedConfig) -> Any:
    """The encoder alone of models like T5, where transformers has a class for that."""
    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


def model_of(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model without decoder, every one of its weights from the folder's files."""
    pickles = None if any(folder.glob("*.safetensors")) else pickled(folder, "pytorch_model.bin")
    own: dict[str, Any] = {} if pickles is None else {"state_dict": pickles}
    try:
        model, found = (_classes(config)[0] if own else _source(config)).from_pretrained(
            None if own else folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention_of(config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **own,
        )
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"its weights could not be loaded: {first_line(error)}") from error
    kept: PreTrainedModel = model
    if config.is_encoder_decoder and getattr(model, "decoder", None) is not None:
        kept = model.get_encoder()
    _refuse_unfit(model, kept, found)
    with torch.no_grad():
        for parameter in kept.parameters():  # XLNet's stay in float32, whatever is asked for; buffers are meant to
            parameter.data = parameter.data.to(dtype)
    return kept


def _refuse_unfit(model: PreTrainedModel, kept: PreTrainedModel, found: dict[str, Any]) -> None:
    """Raises ValueError where weights of `kept`, a part of `model`, would stay random or files hold more of them."""
    ids = {id(parameter) for name, parameter in kept.named_parameters() if name.split(".")[0] != "pooler"}
    needed = [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in ids]
    others = sorted(found["unexpected_keys"])
    missing = [name for name in needed if name in found["missing_keys"]]
    if missing:
        instead = f" (they hold others, such as {others[0]})" if others else ""
        raise ValueError(
            f"{len(missing)} of its model's {len(needed)} weights are not in its files, {missing[0]} for one{instead}; "
            "they would stay random: save the bare model, without wrappers, by model.save_pretrained"
        )
    for name, stored, expected in found["mismatched_keys"]:
        if name in needed:
            raise ValueError(
                f"its files hold {name} as {tuple(stored)} where config.json makes it {tuple(expected)}; they are not "
                "of one model"
            )
    before = f"{model.base_model_prefix}."
    for name in others:
        owner, _, part = name.removeprefix(before).rpartition(".")
        try:
            module = model.get_submodule(owner)
        except AttributeError:
            continue  # a head, a pooler, or a layer that is left out
        if owner and part in ("weight", "bias") and part in module._parameters:
            raise ValueError(
                f"its files hold {name}, which the model of its config.json does not have; they are not of one model"
            )


def first_line(error: Exception) -> str:
    """An error's message as far as it is one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def attention_of(config: PretrainedConfig) -> str:
    """sdpa wherever the model has it (MPNet's relative positions have none)."""
    return "sdpa" if all(getattr(each, "_supports_sdpa", False) for each in _classes(config)) else "eager"


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


_FILES = ("tokenizer*.json", "vocab*", "*.model", "spiece*")
_SAMPLES = ("Toy Story's 3rd NIGHT", "Amélie  ÉLAN \uff21\uff11 \ufb01lm", "a\u0301 <b>x</b>\n\tb", "你好, мир")
"""Texts in which tokenizers that normalise differently differ."""


def own_tokenizer(folder: Path) -> tuple[Tokenizer | None, str]:
    """A folder's tokenizer as transformers sets it up, None where it has none; and what a reader should know of it.

    Where nothing but a tokenizer.json is there, no class or option could change what that says.
    """
    file = folder / "tokenizer.json"
    if file.is_file() and not (folder / "tokenizer_config.json").is_file():
        return FileTokenizer(file), ""
    try:
        own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        if any(any(folder.glob(name)) for name in _FILES):
            raise ValueError(f"its tokenizer could not be loaded: {first_line(error)}") from error
        return None, ""  # an encoder without tokenizer still runs on synthetic texts
    backend = getattr(own, "backend_tokenizer", None)
    special = frozenset(own.all_special_ids)
    found = TransformersTokenizer(own) if backend is None else BackendTokenizer(backend, special)
    if not set(found.encode(["the film"])[0]) - found.special_token_ids:
        return None, ""  # where no file is, transformers makes one up that knows no word
    if file.is_file() and FileTokenizer(file).encode(_SAMPLES) != found.encode(_SAMPLES):
        return found, (
            f", token ids as AutoTokenizer of transformers {transformers.__version__} has them, which are not its "
            "tokenizer.json's own"
        )
    return found, ""


def refuse_unknown_ids(tokenizer: Tokenizer, rows: int) -> None:
    """Raises ValueError where words of the tokenizer have no row in the model's table."""
    highest = max(getattr(tokenizer, "highest_id", 0), *(tokenizer.encode([""])[0] or [0]))
    if highest >= rows:
        raise ValueError(
            f"its tokenizer gives ids up to {highest}, and its model has rows for 0 to {rows - 1}; they are not of one "
            "model: put the model's own tokenizer next to it, or resize its embeddings (model.resize_token_embeddings)"
        )


def ends_of(tokenizer: Tokenizer | None) -> tuple[int | None, int | None]:
    """What the tokenizer opens and closes a text with, read off the empty text."""
    if tokenizer is None:
        return None, None
    empty, text = tokenizer.encode(["", "a"])
    opens = bool(empty) and text[0] == empty[0]
    closes = len(empty) > opens and text[-1] == empty[-1]
    return empty[0] if opens else None, empty[-1] if closes else None
