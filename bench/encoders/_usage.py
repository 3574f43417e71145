"""How a sentence-transformers folder says that its model is to be used: prompt, pooling, and what follows it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.encoders._folder import kind_of, read_json, read_modules

if TYPE_CHECKING:
    from torch import nn

    from gram_core.encoders.pooling import Pooling

POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
"""sentence-transformers' names -> ours; it has more, which nothing here computes."""
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_BERT_FILES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
ELSE = "set model.pooling to something else than auto to leave the folder's own way aside"


@dataclass(frozen=True)
class DenseFiles:
    """A dense layer as its folder describes it."""

    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """pooling, head: of token states, in this order. prompt: precedes every text.
    prompts: names of those there are. longest: tokens of a text, None where nothing is said. lower_case: whether
    texts are lowered first."""

    pooling: Pooling
    head: tuple[DenseFiles | Literal["normalize"], ...] = ()
    prompt: str = ""
    prompts: tuple[str, ...] = ()
    longest: int | None = None
    lower_case: bool = False

    def build_head(self) -> nn.Sequential | None:
        """The modules behind the pooling, with their weights; None where there are none. Raises ValueError."""
        from torch import nn

        from gram_core.encoders.pooling import Normalize

        parts = [Normalize() if part == "normalize" else _dense(part) for part in self.head]
        return nn.Sequential(*parts) if parts else None


def read_usage(root: Path, model: Path) -> Usage | None:
    """What the files of `root` say, whose model lies in `model`; None where it is no sentence-transformers folder.

    Raises ValueError, a sentence without its subject, where they ask for something that is not computed here.
    """
    entries = read_modules(root)
    if not entries:
        return None
    pooling: Pooling | None = None
    head: list[DenseFiles | Literal["normalize"]] = []
    for entry in entries:
        kind, folder = kind_of(entry), root / str(entry.get("path") or "")
        config = read_json(folder / "config.json")
        if kind == "Transformer":
            continue
        if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            raise ValueError(f"its module {entry.get('path')} reads {config['module_input_name']}; {ELSE}")
        if kind == "Pooling":
            pooling = _pooling(config)
        elif kind == "Normalize":
            head.append("normalize")
        elif kind == "Dense":
            head.append(DenseFiles(folder, config))
        elif kind != "Dropout":
            raise ValueError(f"its modules.json has a {kind}, which is not computed here; {ELSE}")
    if pooling is None:
        raise ValueError(f"its modules.json has no Pooling; {ELSE}")
    settings = next((found for name in _BERT_FILES if (found := read_json(model / f"sentence_{name}_config.json"))), {})
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ValueError(f"it is made for {task}; {ELSE}")
    published = read_json(root / "config_sentence_transformers.json")
    if published.get("truncate_dim"):
        raise ValueError(
            f"it keeps the first {published['truncate_dim']} numbers of an encoding (truncate_dim), which is not "
            f"computed here; {ELSE}"
        )
    prompts, default = dict(published.get("prompts") or {}), published.get("default_prompt_name")
    if prompts.get(default or "") and not _includes_prompt(root, entries):
        raise ValueError(f"its pooling leaves the prompt out, which is not computed here; {ELSE}")
    return Usage(
        pooling,
        tuple(head),
        prompts.get(default or "", ""),
        tuple(name for name, text in prompts.items() if text and name != default),
        _longest(settings, model),
        bool(settings.get("do_lower_case")),
    )


def _pooling(config: dict[str, Any]) -> Pooling:
    modes = config.get("pooling_mode") or [name for key, name in _LEGACY.items() if config.get(key)] or "mean"
    named = [modes] if isinstance(modes, str) else list(modes)
    if len(named) == 1 and named[0] in POOLINGS:
        return POOLINGS[named[0]]
    raise ValueError(f"its pooling is {' with '.join(map(str, named))}, which is not computed here; {ELSE}")


def _includes_prompt(root: Path, entries: list[dict[str, Any]]) -> bool:
    configs = [read_json(root / str(e.get("path") or "") / "config.json") for e in entries if kind_of(e) == "Pooling"]
    return all(config.get("include_prompt", True) for config in configs)


def _longest(settings: dict[str, Any], model: Path) -> int | None:
    """sentence_bert_config.json's number, and, where it has none, the tokenizer's, as the library has it."""
    said = settings.get("max_seq_length") or read_json(model / "tokenizer_config.json").get("model_max_length")
    return int(said) if isinstance(said, int | float) and 0 < said < 1 << 30 else None


def _dense(files: DenseFiles) -> nn.Module:
    from bench.encoders._model_files import read_tensors
    from gram_core.encoders.pooling import Dense

    config = files.config
    layer = Dense(
        int(config["in_features"]),
        int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=_activation(str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))),
        residual=bool(config.get("use_residual")),
    )
    try:
        layer.load_state_dict(read_tensors(files.folder))
    except RuntimeError as error:
        raise ValueError(f"{files.folder}: its weights do not fit its config.json") from error
    return layer


def _activation(name: str) -> nn.Module:
    from torch import nn

    module, _, kind = name.rpartition(".")
    if not module.startswith("torch.nn.modules."):
        raise ValueError(f"its dense layer's activation {name} is none of torch.nn's; {ELSE}")
    found = getattr(importlib.import_module(module), kind, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"its dense layer's activation {name} is none of torch.nn's; {ELSE}")
    return found()
