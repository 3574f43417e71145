"""Adapters of peft on an encoder: those of a folder, or fresh ones of low rank."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.encoders._base import Dropout
from bench.encoders._model_files import first_line, read_adapters

MISSING = 'adapters need the package peft, which is not installed: pip install "gram-bench[lora]"'


def with_adapters_of(model: PreTrainedModel, folder: Path, dropout: Dropout) -> tuple[PreTrainedModel, str]:
    """The model with a folder's adapters in its layers, trainable, and what they are.

    The layers are changed in place. Raises ValueError where the adapters don't fit the model.
    """
    peft = _peft()
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise ValueError(
                f"its adapters are {config.peft_type.value}, which change a model's input and not its layers"
            )
        _set_dropout(config, dropout)
        config.inference_mode = False  # or nothing of it would be trained
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, at peft
            adapted = peft.PeftModel(model, config)
    except (TypeError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"peft cannot read its adapter_config.json: {first_line(error)}") from error
    weights = _named_as_here(model, read_adapters(folder))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    try:
        result = peft.set_peft_model_state_dict(adapted, dict(weights))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"its adapters' weights do not fit the base model: {first_line(error)}") from error
    missing = sorted(trained & set(result.missing_keys))
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(trained)} weights that its adapters need are not in its files "
            f"({missing[0]} for one); is the base model the one they were trained on?"
        )
    return adapted.get_base_model(), _described(config)


def with_fresh_adapters(
    model: PreTrainedModel, *, rank: int, alpha: float, targets: tuple[str, ...], seed: int
) -> PreTrainedModel:
    """The model with LoRA of this rank in the linears that `targets` names, "all-linear" for all; all else is frozen.

    seed: of their weights; no other random state moves. Raises ValueError, a sentence without its subject, where no
    linear has such a name.
    """
    peft = _peft()
    if getattr(model, "peft_config", None):
        raise ValueError("it has adapters of its own, which are trained; set sweep.adapter to none for it")
    named: Any = "all-linear" if targets == ("all-linear",) else list(targets)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=named)
    device, dtype = model.device, model.dtype
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                adapted = peft.PeftModel(model, config)
        except ValueError as error:
            raise ValueError(
                f"model.lora.targets do not fit a {model.config.model_type}: {first_line(error)}"
            ) from error
    inner: Any = adapted.get_base_model()
    placed: PreTrainedModel = inner.to(device, dtype)
    return placed


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(MISSING) from error
    return peft


def _set_dropout(config: Any, dropout: Dropout) -> None:
    if dropout not in (None, "shared") and hasattr(config, "lora_dropout"):
        config.lora_dropout = 0.0 if dropout == "off" else float(dropout)


def _named_as_here(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of adapters trained below a head (base_model.model.bert.encoder...) by the bare model's names."""
    before, inner = "base_model.model.", f"{type(model).base_model_prefix}."
    modules = {name for name, _ in model.named_modules()}

    def renamed(name: str) -> str:
        rest = name.removeprefix(before)
        below = rest.removeprefix(inner)
        outside = rest.split(".")[0] not in modules
        return before + below if below != rest and outside and below.split(".")[0] in modules else name

    return {renamed(name): value for name, value in weights.items()}


def _described(config: Any) -> str:
    kind = "DoRA" if getattr(config, "use_dora", False) else config.peft_type.value
    rank = f" of rank {config.r}" if hasattr(config, "r") else ""
    saved = getattr(config, "modules_to_save", None)
    return f"{kind} adapters{rank}" + (f", {', '.join(saved)} trained in full" if saved else "")
