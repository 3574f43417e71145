"""Lower layers frozen, their states kept: each item passes them once, and the upper layers train on what is read back.

Set-up:
1. everything that the states entering the last `trained_layers` layers depend on is frozen (`_split_layers`);
2. what the model makes of a few texts in two parts is compared with what it makes of them as a whole.
A step:
1. the batch's unique items; those not met before pass the lower layers, in evaluation mode, and the states of their
   tokens are kept in the compute dtype;
2. upper layers, pooling and head encode all of them from kept states, with a graph (`_two_parts`);
3. one optimizer step of the upper layers and the CF module.
Sources: ONCE (Liu et al., WSDM 2024), which keeps the states of a language model's lower layers and tunes the layers
above; IISAN (Fu et al., SIGIR 2024), which keeps the states of a frozen backbone and trains next to it.
U unique items, d width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.measure.flops import EncoderOperations, cf_flops
from bench.methods import UNCAPTURED, Handicap, Unavailable
from bench.peers._keeping import Keeping, KeptStates
from bench.peers._own_pass import difference, huggingface_encoder, prove
from bench.peers._settings import CachedLayersSettings
from bench.peers._split_layers import SplitLayers, Uncut, freeze_below
from bench.peers._two_parts import PackedParts, PaddedParts, TwoParts
from bench.results.analysis.tiers import OWN, Ran
from gram_core.batch import Batch, ItemTable, Texts, unique_items
from gram_core.encoders import general
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.probe import evaluating
from gram_core.encoders.proof import few_texts
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class CachedLayers(Keeping):
    """A model whose lower part does not learn."""

    name: ClassVar[str] = "cached_layers"
    exactness: ClassVar[Exactness] = "other-model"
    handicaps: tuple[Handicap, ...] = (
        UNCAPTURED,
        Handicap(
            "the first steps pass the lower layers with most items: a short measurement shows more of that than a long "
            "training does",
            "measured",
        ),
    )

    Settings = CachedLayersSettings

    def __init__(self, training: Training, settings: CachedLayersSettings | None = None):
        super().__init__(training, settings)
        encoder = huggingface_encoder(training, self.name)
        table = training.table
        assert isinstance(table, ItemTable), "what an encoder of texts reads"
        texts = few_texts(table, encoder.text_length)
        if texts is None:
            raise Unavailable(f"{self.name} finds no text of at most {encoder.text_length} tokens to try itself on")
        place = training.device if self.settings.store == "device" else torch.device("cpu")
        self._kept: KeptStates = KeptStates(table, training.amp_dtype or encoder.model.dtype, place)
        self._parts, self.ran = self._in_two_parts(self._cut(encoder, training, texts), encoder, training)
        if self.ran.why is not None and training.encoder is not encoder:
            why = Handicap(f"its layers run on padded texts: {self.ran.why}")
            self.handicaps = (*type(self).handicaps, why)
        self.training = replace(training, encoder=self._parts)

    def _cut(self, encoder: HuggingFaceEncoder, training: Training, texts: Texts) -> SplitLayers:
        """The model cut below the layers that are trained, and frozen there."""
        kind = encoder.model.config.model_type
        try:
            with training.autocast():
                split = SplitLayers(encoder, self.settings.trained_layers, texts)
                freeze_below(split, encoder, texts)
        except Uncut as reason:
            raise Unavailable(f"{self.name} cannot run this {kind}, which {reason}") from reason
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise Unavailable(f"{self.name} leaves nothing of this {kind} to train: what is above is frozen")
        return split

    def _in_two_parts(
        self, split: SplitLayers, encoder: HuggingFaceEncoder, training: Training
    ) -> tuple[TwoParts, Ran]:
        """Packed where the engine is not the eager one and that holds, else padded."""
        given, dtype = training.encoder, training.amp_dtype
        why_padded = "the engine pads texts" if given is encoder else general.refuses(encoder, dtype)
        if why_padded is None:
            packed = PackedParts(given, encoder, split, dtype)
            why_padded = difference(partial(packed.alone().both, dtype=self._kept.dtype), encoder, encoder, training)
            if why_padded is None:
                return packed, Ran(f"{OWN}, packed", None)
        padded = PaddedParts(given, encoder, split)
        prove(self.name, partial(padded.both, dtype=self._kept.dtype), encoder, encoder, training)
        return padded, Ran(f"{OWN}, padded", why_padded)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of upper layers and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            new = selection.items[~self._kept.holds(selection.items)]
            self._passes.note(batch, new)
        if len(new):
            self._keep(new)
        return self.training.joint_step(self._encode(selection.items), selection.slot_rows, batch)

    def _keep(self, items: Tensor) -> None:
        """The lower layers' states of `items` [n], which are not held yet."""
        texts = self.training.table.take(items)
        for rows, padded_to in self._parts.runs(texts.lengths, self.settings.encode_batch_tokens):
            with phase("ce_forward"), evaluating(self._parts.encoder), self.training.autocast():
                self._kept.write(items[rows], self._parts.below(texts.take(rows), padded_to))

    def _encode(self, items: Tensor) -> Tensor:
        """Encodings [U, d] of `items` [U] from kept states, with a graph from the upper layers on."""
        texts = self.training.table.take(items)
        runs = self._parts.runs(texts.lengths)
        parts = []
        for rows, padded_to in runs:
            with phase("ce_forward"), self.training.autocast():
                states = self._kept.read(items[rows]).to(self.training.device, non_blocking=True)
                parts.append(self._parts.above(texts.take(rows), padded_to, states))
        order = torch.cat([rows for rows, _ in runs])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self.training.device, non_blocking=True)]

    def useful_flops(self, batches: Sequence[Batch]) -> float:
        """Operations per step on these batches: upper layers and CF module, lower layers of items that were new."""
        training, encoder, split = self.training, self._parts.encoder, self._parts.split

        def reading(model: PreTrainedModel, ids: Tensor) -> AbstractContextManager[None]:
            return split.of(model).reading(torch.zeros(*ids.shape, split.width, dtype=split.dtype, device=ids.device))

        above = EncoderOperations(encoder, backward=True, within=reading)
        whole, forward = EncoderOperations(encoder), EncoderOperations(encoder, within=reading)
        total = len(batches) * cf_flops(training, batches[0])
        for batch, new in zip(batches, self._passes.of(batches), strict=True):
            lengths = training.table.lengths
            total += above.of(lengths[unique_items(batch).items])
            total += whole.of(lengths[new]) - forward.of(lengths[new])
        return total / len(batches)

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the upper layers in these steps, one tensor per step."""
        return [unique_items(batch).items for batch in batches]
