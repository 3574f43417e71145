"""Lower layers frozen, their states kept: each item passes them once, and the upper layers train on what is read back.

Set-up:
1. everything that the states entering the last `trained_layers` layers depend on is frozen (`_split_layers`);
2. what the model makes of a few texts in two parts is compared with what it makes of them as a whole.
A step:
1. the batch's unique items; those not met before pass the lower layers, in evaluation mode, and the states of their
   tokens are kept in the compute dtype;
2. upper layers, pooling and head encode all of them from kept states, with a graph;
3. one optimizer step of the upper layers and the CF module.
Sources: ONCE (Liu et al., WSDM 2024), which keeps the states of a language model's lower layers and tunes the layers
above; IISAN (Fu et al., SIGIR 2024), which keeps the states of a frozen backbone and trains beside it.
U unique items, L tokens padded, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.handicaps import Handicap
from bench.methods import Unavailable
from bench.peers._handicaps import UNCAPTURED
from bench.peers._kept_states import KeptStates
from bench.peers._own_pass import huggingface_encoder, prove
from bench.peers._split_layers import SplitLayers, Uncut, freeze_below
from bench.results.tiers import OWN, Ran
from gram_core.batch import Batch, Texts, unique_items
from gram_core.chunking import chunk_bounds
from gram_core.encoders.bucketed import BucketedEncoder, length_bounds
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.probe import evaluating
from gram_core.encoders.proof import few_texts
from gram_core.phases import phase
from gram_core.protocols import ContentEncoder, Exactness
from gram_core.training import Training

Run = tuple[Tensor, int]
"""Rows of texts that pass together, and the tokens they are padded to."""


class CachedLayers:
    """A model whose lower part does not learn."""

    name: ClassVar[str] = "cached_layers"
    exactness: ClassVar[Exactness] = "other-model"

    @dataclass(frozen=True)
    class Settings:
        """trained_layers: how many, counted from the top, are trained. store: where states are kept.

        encode_batch_tokens: the most tokens that pass the lower layers at once, None for no limit. Only bounds memory.
        """

        trained_layers: int = 2
        store: Literal["device", "host"] = "device"
        encode_batch_tokens: int | None = None

        def __post_init__(self) -> None:
            if self.trained_layers < 1 or self.store not in ("device", "host"):
                raise ValueError('trained_layers must be at least 1, store "device" or "host"')

    def __init__(self, training: Training, settings: Settings | None = None):
        self.settings = settings or self.Settings()
        encoder = huggingface_encoder(training, self.name)
        self._split = self._cut(encoder, training)
        self._passes = _TwoParts(training.encoder, encoder)
        self.training = replace(training, encoder=self._passes)
        place = training.device if self.settings.store == "device" else torch.device("cpu")
        self._kept = KeptStates(training.table, training.amp_dtype or encoder.model.dtype, place)
        self.ran = Ran(f"{OWN}, padded", "states are kept and read by padded texts")
        self.handicaps = _handicaps(self._passes)

    def _cut(self, encoder: HuggingFaceEncoder, training: Training) -> SplitLayers:
        """The model in two parts that leave what it leaves as a whole. Raises Unavailable where they do not."""
        texts = few_texts(training.table, encoder.text_length)
        if texts is None:
            raise Unavailable(f"{self.name} finds no text of at most {encoder.text_length} tokens to try itself on")
        kind = encoder.model.config.model_type
        try:
            with training.autocast():
                split = SplitLayers(encoder, self.settings.trained_layers, texts)
                freeze_below(split, encoder, texts)
        except Uncut as reason:
            raise Unavailable(f"{self.name} cannot run this {kind}, which {reason}") from reason
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise Unavailable(
                f"{self.name} leaves nothing of the encoder to train: no parameter is above its lower layers"
            )

        def in_two_parts(texts: Texts) -> Tensor:
            with torch.no_grad(), split.below_only() as found:
                encoder.encode(texts, padded_to=None)
            kept = found[-1].to(training.amp_dtype or encoder.model.dtype)
            with split.reading(kept.to(split.dtype)):
                return encoder.encode(texts, padded_to=None)

        prove(self.name, in_two_parts, encoder, encoder, training)
        return split

    @property
    def interval(self) -> int:
        """Every step updates the upper layers."""
        return 1

    @property
    def kept_bytes(self) -> int:
        """What the kept states take, on the device or on the host."""
        return self._kept.nbytes

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of upper layers and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            new = selection.items[~self._kept.holds(selection.items)]
        if len(new):
            self._keep(new)
        encodings = self._encode(selection.items)
        with phase("cf"):
            loss = self.training.loss(self.training.gather(selection.slot_rows)(encodings), batch)
        with phase("backward"):
            loss.backward()
        self.training.optimization.step()
        return loss.detach()

    def _keep(self, items: Tensor) -> None:
        """The lower layers' states of `items` [n], which are not held yet."""
        encoder, texts = self._passes.encoder, self.training.table.texts(items)
        for rows, padded_to in self._passes.runs(texts.lengths, self.settings.encode_batch_tokens):
            with phase("ce_forward"), torch.no_grad(), evaluating(encoder), self.training.autocast():
                with self._split.below_only() as found:
                    encoder.encode(texts.take(rows), padded_to)
                self._kept.write(items[rows], found[-1])

    def _encode(self, items: Tensor) -> Tensor:
        """Encodings [U, d] of `items` [U] from kept states, with a graph from the upper layers on."""
        encoder, texts = self._passes.encoder, self.training.table.texts(items)
        runs = self._passes.runs(texts.lengths)
        parts = []
        for rows, padded_to in runs:
            with phase("ce_forward"), self.training.autocast():
                states = self._kept.read(items[rows], padded_to)
                with self._split.reading(states.to(self.training.device, self._split.dtype, non_blocking=True)):
                    parts.append(encoder.encode(texts.take(rows), padded_to))
        order = torch.cat([rows for rows, _ in runs])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self.training.device, non_blocking=True)]

    def finish(self) -> None:
        """Nothing is pending between steps, and what is kept can be computed again."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the upper layers in these steps, one tensor per step."""
        return [unique_items(batch).items for batch in batches]


class _TwoParts(nn.Module):
    """In the encoder's place: whole texts pass it as the engine has them pass, and it says how texts pass in two parts.

    given: the engine's encoder; encoder: what that was made of.
    """

    def __init__(self, given: ContentEncoder, encoder: HuggingFaceEncoder):
        super().__init__()
        self.given: Any = given
        self.encoder = encoder
        self.width = given.width

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d], by all layers: what evaluation asks for."""
        encodings: Tensor = self.given(texts)
        return encodings

    @property
    def sorts(self) -> bool:
        """Whether texts of like length pass together, as they do where the engine is not the eager one."""
        return self.given is not self.encoder

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens per text as the two parts are padded, int64 [n]."""
        tokens = torch.empty_like(lengths)
        for rows, padded_to in self.runs(lengths):
            tokens[rows] = padded_to
        return tokens

    def runs(self, lengths: Tensor, budget: int | None = None) -> list[Run]:
        """Which texts of these lengths [n] pass together; budget: the most tokens, padding included."""
        if not self.sorts:
            padded = self.encoder.computed_tokens(lengths)
            rows = torch.arange(len(lengths))
            return [(rows[start:stop], int(padded[0])) for start, stop in chunk_bounds(padded, budget)]
        ordered, order = torch.sort(lengths, stable=True)
        runs = []
        for start, stop in length_bounds(ordered.tolist(), BucketedEncoder(self.encoder).cost):
            longest = int(ordered[stop - 1])
            padded = torch.full((stop - start,), longest)
            runs += [(order[start + a : start + b], longest) for a, b in chunk_bounds(padded, budget)]
        return runs


def _handicaps(passes: _TwoParts) -> tuple[Handicap, ...]:
    found = [
        UNCAPTURED,
        Handicap(
            "its lower layers are computed in the first steps: a short measurement shows more of that than a long "
            "training does",
            "measured",
        ),
    ]
    if passes.sorts:
        found.append(
            Handicap("its layers run by the model's own forward pass on texts padded to like lengths, on every engine")
        )
    return tuple(found)
