"""Texts to token ids, once: kept in the cache under a hash of the texts and the tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.inputs import assets
from bench.results.files import UnwritableResults, replacing

if TYPE_CHECKING:
    from bench.encoders._base import Tokenizer

FORMAT = 2
"""Part of every key in the cache: another layout of these files, or of what a fingerprint covers, is another entry."""
_LIBRARIES = ("tokenizers", "transformers", "sentencepiece")
"""What turns texts into tokens: another version may do it otherwise."""
CHUNK = 4096
"""Texts handed to a tokenizer at once: as Python's numbers, tokens take ten times the memory that they need."""


def tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids of all texts [T] and where each starts [n + 1]; special tokens included, nothing cut."""
    path = assets.cache_dir() / "tokens" / f"{_fingerprint(texts, tokenizer)}.npz"
    try:
        with np.load(path) as kept:
            return kept["tokens"].astype(np.int64), kept["offsets"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged: it costs a second to make
    parts, lengths = [np.empty(0, dtype=np.int32)], [0]
    for start in range(0, len(texts), CHUNK):
        ids = tokenizer.encode(texts[start : start + CHUNK])
        parts += [np.asarray(row, dtype=np.int32) for row in ids]
        lengths += [len(row) for row in ids]
    tokens, offsets = np.concatenate(parts).astype(np.int64), np.cumsum(lengths, dtype=np.int64)
    # a cache that is read-only or full makes the next start slower, no more
    with contextlib.suppress(UnwritableResults), replacing(path) as fresh, fresh.open("wb") as stream:
        np.savez(stream, tokens=tokens.astype(np.int32), offsets=offsets)
    return tokens, offsets


def _fingerprint(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    versions = [_version(library) for library in _LIBRARIES]
    digest = hashlib.sha256(f"{FORMAT} {versions} {tokenizer.fingerprint} ".encode())
    for text in texts:
        encoded = text.encode()
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
