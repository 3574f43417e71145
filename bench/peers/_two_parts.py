"""Texts through an encoder in two parts: the states below its upper layers, then encodings from states that were kept.

Packed, by the engine's general path, or padded, by the model's own pass. n texts, T tokens of theirs, d width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers._split_layers import SplitLayers
from gram_core.batch import Texts
from gram_core.chunking import chunk_bounds
from gram_core.encoders.bucketed import BucketedEncoder, length_bounds
from gram_core.encoders.general import GeneralEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.packing import PackedTexts
from gram_core.protocols import ContentEncoder

Run = tuple[Tensor, int]
"""Rows of texts that pass together, and the tokens that each of them is padded to at least."""


class TwoParts(nn.Module, ABC):
    """In the encoder's place: it says how texts pass in two parts; whole ones pass as the engine has them pass.

    given: the engine's encoder; encoder: what that was made of, which `split` cuts.
    """

    def __init__(self, given: ContentEncoder, encoder: HuggingFaceEncoder, split: SplitLayers):
        super().__init__()
        self.given: Any = given
        self.encoder, self.split = encoder, split
        self.width = given.width

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d], by all layers: what evaluation asks for."""
        encodings: Tensor = self.given(texts)
        return encodings

    @abstractmethod
    def runs(self, lengths: Tensor, budget: int | None = None) -> list[Run]:
        """Which texts of these lengths [n] pass together; budget: the most tokens, padding included."""

    @abstractmethod
    def below(self, texts: Texts, padded_to: int) -> Tensor:
        """States [T, d] that enter the upper layers, without a graph."""

    @abstractmethod
    def above(self, texts: Texts, padded_to: int, states: Tensor) -> Tensor:
        """Encodings [n, d] of texts from such states [T, d] on the device."""

    def alone(self) -> TwoParts:
        """The same for the few texts of a proof."""
        return self

    def both(self, texts: Texts, dtype: torch.dtype) -> Tensor:
        """Encodings [n, d], states rounded to `dtype` in between."""
        longest = int(texts.lengths.max())
        return self.above(texts, longest, self.below(texts, longest).to(dtype))

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens per text that the two parts compute, int64 [n]."""
        tokens = torch.empty_like(lengths)
        for rows, padded_to in self.runs(lengths):
            tokens[rows] = lengths[rows].clamp(min=padded_to)
        return tokens


class PaddedParts(TwoParts):
    """By the model's own pass. On the eager engine texts are padded as the encoder pads them, on others to the longest
    of a few like ones."""

    def runs(self, lengths: Tensor, budget: int | None = None) -> list[Run]:
        """See `TwoParts`."""
        if self.given is self.encoder:
            rows, padded = torch.arange(len(lengths)), self.encoder.computed_tokens(lengths)
            return [(rows[start:stop], int(padded[0])) for start, stop in chunk_bounds(padded, budget)]
        ordered, order = torch.sort(lengths, stable=True)
        runs = []
        for start, stop in length_bounds(ordered.tolist(), BucketedEncoder(self.encoder).cost):
            longest = int(ordered[stop - 1])
            for first, last in chunk_bounds(torch.full((stop - start,), longest), budget):
                runs.append((order[start + first : start + last], longest))
        return runs

    def below(self, texts: Texts, padded_to: int) -> Tensor:
        """See `TwoParts`."""
        with torch.no_grad(), self.split.below_only() as found:
            self.encoder.encode(texts, padded_to)
        return found[-1].flatten(0, 1)[self._places(texts, padded_to)]

    def above(self, texts: Texts, padded_to: int, states: Tensor) -> Tensor:
        """See `TwoParts`."""
        padded = states.new_zeros(len(texts) * padded_to, states.shape[1], dtype=self.split.dtype)
        padded[self._places(texts, padded_to)] = states.to(padded.dtype)
        with self.split.reading(padded.view(len(texts), padded_to, -1)):
            return self.encoder.encode(texts, padded_to)

    def _places(self, texts: Texts, padded_to: int) -> Tensor:
        """Where real tokens are among padded ones, int64 [T]."""
        mask = torch.arange(padded_to) < texts.lengths[:, None]
        return torch.nonzero(mask.flatten()).flatten().to(self.encoder.model.device, non_blocking=True)


class PackedParts(TwoParts):
    """By the engine's general path, whatever tier the engine itself takes: no padding."""

    def __init__(
        self, given: ContentEncoder, encoder: HuggingFaceEncoder, split: SplitLayers, compute_dtype: torch.dtype | None
    ):
        super().__init__(given, encoder, split)
        self._general = given if isinstance(given, GeneralEncoder) else GeneralEncoder(encoder, compute_dtype)
        self._least_tokens = 0

    def alone(self) -> PackedParts:
        """Uncompiled, and in rows of more tokens than the model has positions for."""
        shared = copy.copy(self)
        shared._general, shared._least_tokens = self._general.alone(), self._general.proved_tokens
        return shared

    def runs(self, lengths: Tensor, budget: int | None = None) -> list[Run]:
        """See `TwoParts`."""
        rows = torch.arange(len(lengths))
        return [(rows[start:stop], 0) for start, stop in chunk_bounds(lengths, budget)]

    def below(self, texts: Texts, padded_to: int) -> Tensor:
        """See `TwoParts`."""
        with torch.no_grad(), self.split.below_only() as found:
            self._general.encode(self._packed(texts))
        return found[-1][0, : len(texts.tokens)]

    def above(self, texts: Texts, padded_to: int, states: Tensor) -> Tensor:
        """See `TwoParts`."""
        packed = self._packed(texts)
        with self.split.reading(F.pad(states, (0, 0, 0, len(packed.tokens) - len(states)))[None]):
            return self._general.encode(packed)

    def _packed(self, texts: Texts) -> PackedTexts:
        capacity = max(len(texts.tokens), self._least_tokens)
        return self._general.pack(texts, capacity).to(self.encoder.model.device)
