"""A model of transformers from a folder's files: the one they are of, all of its weights, nothing executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel

from bench.encoders._weight_files import pickled

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
