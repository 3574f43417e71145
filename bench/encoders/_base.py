"""What a source of encoders hands over, and the words `scheme:argument` that choose one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench import registry
from bench.inputs import assets, hashes

if TYPE_CHECKING:
    import tokenizers
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.encoders._folder import EncoderFolder
    from gram_core.encoders.pictures import PicturePooling

PACKAGE = "bench.encoders"

Files = Mapping[str, "list[Path] | str"]
"""What an encoder is made of, by part: files, or a text that says what it is."""

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
        """Ids that mean no piece of a text."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text."""
        ...


class _OfBackend:
    """What tokenizers of the tokenizers library have in common."""

    _backend: tokenizers.Tokenizer

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of the added tokens that are marked special."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    @property
    def highest_id(self) -> int:
        """Of its vocabulary, added tokens left out: a text has those only where it spells them."""
        return max(self._backend.get_vocab(with_added_tokens=False).values(), default=0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text, special tokens included."""
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts))]


class BackendTokenizer(_OfBackend):
    """A tokenizer of the tokenizers library, as another library has set it up."""

    def __init__(self, backend: tokenizers.Tokenizer, special_token_ids: frozenset[int] = frozenset()):
        self._backend = _uncut(type(backend).from_str(backend.to_str()))
        self._special = special_token_ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that it does, options included."""
        return hashes.of_text(self._backend.to_str())

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of the added tokens that are marked special, and what its library calls so."""
        return self._special | super().special_token_ids


class PromptedTokenizer:
    """Another tokenizer on texts that a prompt precedes, lowered first where that is asked for."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, lower_case: bool):
        self._tokenizer, self._prompt, self._lower_case = tokenizer, prompt, lower_case

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer and what it is given."""
        return hashes.of_text(f"{self._tokenizer.fingerprint} {self._lower_case} {self._prompt}")

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The tokenizer's own."""
        return self._tokenizer.special_token_ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text, those of the prompt included."""
        whole = [self._prompt + text for text in texts]
        return self._tokenizer.encode([text.lower() for text in whole] if self._lower_case else whole)


def _uncut(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    return backend


class FileTokenizer(_OfBackend):
    """The tokenizer of a `tokenizer.json`."""

    def __init__(self, path: Path):
        self._path = path

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:  # type: ignore[override]
        from tokenizers import Tokenizer as Backend

        return _uncut(Backend.from_file(str(self._path)))


class AssetTokenizer(FileTokenizer):
    """The tokenizer of an asset; a missing asset is fetched when the first text comes, and not before."""

    def __init__(self, asset: str):
        self._asset = asset

    @property
    def _path(self) -> Path:  # type: ignore[override]
        return assets.fetch(self._asset) / "tokenizer.json"


class TransformersTokenizer:
    """A tokenizer of transformers that has no backend of the tokenizers library."""

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

    @property
    def highest_id(self) -> int:
        """Of its vocabulary, added tokens left out: a text has those only where it spells them."""
        return max(set(self._tokenizer.get_vocab().values()) - set(self._tokenizer.added_tokens_decoder), default=0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids per text, special tokens included."""
        return self._tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]


@dataclass(frozen=True)
class PictureFormat:
    """Pictures that an encoder reads: `size` pixels high and wide, of `channels` colours, cut into square patches of
    `patch` pixels. class_token: whether there is a state more than patches. mean, std: of a channel's values between 0
    and 1, by which they are normalised."""

    size: int
    patch: int
    class_token: bool
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def channels(self) -> int:
        """Colours."""
        return len(self.mean)

    @property
    def tokens(self) -> int:
        """States that the encoder computes of a picture."""
        return (self.size // self.patch) ** 2 + self.class_token


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedEncoder:
    """A model of texts or pictures, on its device, and what a workload must know to write texts for it.

    tokenizer: None where the encoder has no text of its own (`shape:tiny`). opening_token_id, closing_token_id: what
    a text starts and ends with, None where the encoder has no such token. special_token_ids: never to be drawn as a
    random token. vocab_size: rows of its table of words. longest_text: tokens that its positions allow. weights:
    "random" measures speed and memory only. description: one line for people. causal: whether tokens are blind to later
    ones. folder: where its files lie, None where it has none. pooling: what its published use pools by, None where
    nothing says. picture: what pictures it reads, of which longest_text then tells the tokens; None where it reads
    texts.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer | None = None
    pad_token_id: int = 0
    opening_token_id: int | None = None
    closing_token_id: int | None = None
    special_token_ids: frozenset[int] = frozenset()
    vocab_size: int = 0
    longest_text: int
    weights: Literal["real", "random"]
    description: str
    causal: bool = False
    folder: EncoderFolder | None = None
    pooling: PicturePooling | None = None
    picture: PictureFormat | None = None


@dataclass(frozen=True)
class Limits:
    """What an encoder can be given, known without its weights. longest_text: in tokens. picture: what pictures, None
    where it reads texts."""

    longest_text: int
    has_tokenizer: bool
    picture: PictureFormat | None = None


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


def files_by_part(encoder: str, base: str | None = None) -> Files:
    """What `encoder` is made of; base: see `load`."""
    scheme, argument = split(encoder)
    module = registry.load(PACKAGE, scheme)
    found: Files = module.contents(argument, base) if hasattr(module, "ADAPTS") else module.contents(argument)
    return found


@dataclass(frozen=True)
class Loading:
    """How an encoder is loaded: its first `layers` layers (all if None), in `dtype` on `device`.

    seed: of the weights where they are random. base: the encoder that adapters were trained on, in place of the one
    that their configuration names.
    """

    device: torch.device
    dtype: torch.dtype
    layers: int | None = None
    seed: int = 0
    dropout: Dropout = None
    base: str | None = None


def load(encoder: str, asked: Loading) -> LoadedEncoder:
    """The encoder that `encoder` names. Raises ValueError as `check` does or where it has fewer layers,
    `bench.inputs.assets.AssetError` where its files cannot be had."""
    check(encoder)
    scheme, argument = split(encoder)
    loaded: LoadedEncoder = registry.load(PACKAGE, scheme).load(argument, asked)
    return loaded


_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
"""The first that a folder holds is what transformers loads."""
_CONFIGURATION = (
    "config.json", "adapter_config.json", "*.index.json", "modules.json", "sentence_*_config.json",
    "config_sentence_transformers.json",
)  # fmt: skip
_TOKENIZER = (
    "tokenizer*", "vocab*", "merges*", "special_tokens_map*", "added_tokens*", "*.model", "*.spm", "*.tiktoken",
    "*.codes",
)  # fmt: skip


def files_of(folder: Path) -> dict[str, list[Path]]:
    """What a model's folder holds, as `contents` tells it."""

    def matching(*patterns: str) -> list[Path]:
        return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})

    weights = next((found for pattern in _WEIGHTS if (found := matching(pattern))), [])
    return {"weights": weights, "configuration": matching(*_CONFIGURATION), "tokenizer": matching(*_TOKENIZER)}
