"""What a source of encoders hands over, and the words `scheme:argument` that choose one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench import assets, hashes, registry

if TYPE_CHECKING:
    import tokenizers
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "bench.encoders"

Dropout = float | Literal["off", "shared"] | None
"""0 and "off": no dropout; None and "shared": the configuration's own probabilities; a number: that, everywhere."""


class Tokenizer(Protocol):
    """Texts to token ids, special tokens included, neither cut nor padded."""

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids: a key for caches."""
        ...

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no piece of a text."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text."""
        ...


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`."""

    def __init__(self, path: Path):
        self._path = path

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of the added tokens that are marked special."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text, special tokens included."""
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts))]

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_file(str(self._path))
        backend.no_truncation()
        backend.no_padding()
        return backend


class AssetTokenizer(FileTokenizer):
    """The tokenizer of an asset; a missing asset is fetched when the first text comes, and not before."""

    def __init__(self, asset: str):
        self._asset = asset

    @property
    def _path(self) -> Path:  # type: ignore[override]
        return assets.fetch(self._asset) / "tokenizer.json"


class TransformersTokenizer:
    """A tokenizer that transformers loaded: for folders and hub names that have no `tokenizer.json`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class, options, and the whole of its state: rules as well as vocabulary."""
        tokenizer: Any = self._tokenizer
        places = {"name_or_path", *tokenizer.vocab_files_names}
        options = {name: value for name, value in tokenizer.init_kwargs.items() if name not in places}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        parts = {
            "class": type(tokenizer).__name__,
            "options": str(sorted((name, str(value)) for name, value in options.items())),
            "vocabulary": str(sorted(tokenizer.get_vocab().items())),
            "backend": "" if backend is None else backend.to_str(),
        }
        for name in tokenizer.vocab_files_names:
            path = tokenizer.init_kwargs.get(name)
            if backend is None and path:
                parts[name] = hashes.of_file(Path(path))
        return hashes.of_parts(parts)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """What the tokenizer itself calls special."""
        return frozenset(self._tokenizer.all_special_ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text, special tokens included."""
        return self._tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A text model without pooler, on its device, and what a workload must know to write texts for it.

    tokenizer: None where the encoder has no text of its own (`shape:tiny`). opening_token_id, closing_token_id: what
    a text starts and ends with, None where the encoder has no such token. special_token_ids: never to be drawn as a
    random token. longest_text: tokens that its positions allow. weights: "random" measures speed and memory only.
    description: one line for people.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer | None
    pad_token_id: int
    opening_token_id: int | None
    closing_token_id: int | None
    special_token_ids: frozenset[int]
    vocab_size: int
    longest_text: int
    weights: Literal["real", "random"]
    description: str


@dataclass(frozen=True)
class Limits:
    """What an encoder can be given, known without its weights. longest_text: in tokens."""

    longest_text: int
    has_tokenizer: bool


def limits(encoder: str) -> Limits | None:
    """What `encoder` can be given; None where that is not known before it is loaded."""
    scheme, argument = split(encoder)
    module = registry.load(PACKAGE, scheme)
    found: Limits | None = module.limits(argument) if hasattr(module, "limits") else None
    return found


def split(encoder: str) -> tuple[str, str | None]:
    """The scheme and the argument of "scheme" or "scheme:argument"."""
    scheme, colon, argument = encoder.partition(":")
    return scheme, argument if colon else None


def check(encoder: str) -> None:
    """Raises ValueError, naming what would be valid, where no scheme could make sense of `encoder`; instant."""
    scheme, argument = split(encoder)
    registry.load(PACKAGE, scheme).check(argument)


def load(
    encoder: str, *, layers: int | None, device: torch.device, dtype: torch.dtype, seed: int, dropout: Dropout
) -> LoadedEncoder:
    """The encoder that `encoder` names: its first `layers` layers (all if None), in `dtype` on `device`.

    seed: of the weights where they are random. Raises ValueError as `check` does or where it has fewer layers,
    `bench.assets.AssetError` where its files cannot be had.
    """
    scheme, argument = split(encoder)
    module = registry.load(PACKAGE, scheme)
    module.check(argument)
    loaded: LoadedEncoder = module.load(argument, layers=layers, device=device, dtype=dtype, seed=seed, dropout=dropout)
    return loaded


_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The first that a folder holds is what transformers loads."""
_CONFIGURATION = ("config.json", "adapter_config.json", "*.index.json")
_TOKENIZER = (
    "tokenizer*", "vocab*", "merges*", "special_tokens_map*", "added_tokens*", "*.model", "*.spm", "*.tiktoken",
    "*.codes",
)  # fmt: skip


def files_of(folder: Path) -> dict[str, list[Path] | str]:
    """What a model's folder holds, as `contents` tells it."""

    def matching(*patterns: str) -> list[Path]:
        return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})

    weights = next((found for pattern in _WEIGHTS if (found := matching(pattern))), [])
    return {"weights": weights, "configuration": matching(*_CONFIGURATION), "tokenizer": matching(*_TOKENIZER)}


def asset_files(name: str) -> dict[str, list[Path] | str]:
    """The same of an encoder that is an asset; nothing where it has not been fetched yet."""
    asset = assets.ASSETS[name]
    return files_of(asset.folder) if assets.is_present(asset) else {}


def no_argument(scheme: str, argument: str | None) -> None:
    """Raises ValueError where a scheme that takes no argument got one."""
    if argument is not None:
        raise ValueError(f'encoder "{scheme}:{argument}": {scheme} takes no argument, write "{scheme}"')
