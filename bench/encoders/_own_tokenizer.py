"""The tokenizer of a model's folder: as transformers sets it up, and only where it belongs to the model."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import AutoTokenizer

from bench.encoders._base import BackendTokenizer, FileTokenizer, Tokenizer, TransformersTokenizer
from bench.encoders._model_files import first_line

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
