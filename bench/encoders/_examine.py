"""A user's own encoders, loaded before anything is measured: every command says alike what is wrong with one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from bench import registry
from bench.encoders import _base as encoders
from bench.encoders._base import Loading
from bench.workloads import _base as workloads
from bench.workloads._log.real_log import no_tokenizer

if TYPE_CHECKING:
    from bench.configuration.config import Config


def examine(config: Config, *, download: bool) -> dict[str, str]:
    """Each encoder of the sweep, and how it encodes, in one line.

    Those whose files are the user's are loaded, on the processor; download: those of the hub too that are not there
    yet. Raises ValueError at the first one that cannot be what the sweep asks for.
    """
    layers: dict[str, set[int | str]] = {}
    text_length: dict[str, int] = {}
    adapted: set[str] = set()
    real_texts: dict[str, str] = {}
    for part in config.sweep.parts():
        for encoder in part.encoder:
            layers.setdefault(encoder, set()).update(part.layers)
            text_length[encoder] = max(*part.text_length, text_length.get(encoder, 0))
            if "lora" in part.adapter:
                adapted.add(encoder)
            for workload in part.workload:
                if getattr(workloads.load(workload), "REAL_TEXTS", False):
                    real_texts.setdefault(encoder, workload)
    found: dict[str, str] = {}
    for encoder in layers:
        scheme, argument = encoders.split(encoder)
        module = registry.load(encoders.PACKAGE, scheme)
        if not hasattr(module, "ADAPTS"):
            asked = config.model.pooling
            found[encoder] = f"pooling {module.pooling(argument) if asked == 'auto' else asked}"
        elif download or getattr(module, "cached", _always)(argument):
            words, has_tokenizer = _loaded(config, encoder, layers[encoder], text_length[encoder], encoder in adapted)
            if encoder in real_texts and not has_tokenizer:
                raise ValueError(no_tokenizer(real_texts[encoder], encoder))
            found[encoder] = words
        else:
            found[encoder] = "not downloaded yet, and not examined"
    return found


def _always(argument: str | None) -> bool:
    return True


def _loaded(
    config: Config, encoder: str, layers: set[int | str], text_length: int, with_adapters: bool
) -> tuple[str, bool]:
    """How it encodes, and whether it has a tokenizer."""
    import torch

    from bench.build.assembly import adapted
    from bench.encoders._encoding import check_length, encoding_of
    from bench.encoders._huggingface import keep_first_layers

    asked = Loading(
        torch.device("cpu"), torch.float32, seed=config.run.seed, dropout=config.run.dropout, base=config.model.base
    )
    loaded = encoders.load(encoder, asked)
    encoding = encoding_of(loaded, config.model.pooling, encoder)
    check_length(encoding.loaded, encoder, text_length)
    try:
        encoding.encoder(text_length)
    except ValueError as error:
        raise ValueError(f'encoder "{encoder}": {error}') from error
    for number in layers:
        if isinstance(number, int):
            keep_first_layers(copy.deepcopy(loaded.model.config), number, encoder)
    if with_adapters:
        adapted(loaded, config.model.lora, encoder, config.run.seed)
    return f"{loaded.description}; encoding: {encoding.description}", encoding.loaded.tokenizer is not None
