"""The library sentence-transformers as installed, with its cached losses: its model, its mini-batches, our CF loss.

What is the library's: the model (`_library_model`), cutting a batch into mini-batches by tokens, the forward pass
without a graph, random states, and the hook that encodes again and back-propagates (`CachedLossMixin`, of which a loss
"only has to provide `calculate_loss`"; its CachedMultipleNegativesRankingLoss is built on it). What is ours: the
weights, and the CF module's loss in place of the in-batch negatives. As in the library, every slot is a text of its
own. n item slots, d width.
"""

import importlib.metadata
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.measure.flops import step_flops
from bench.methods import UNCAPTURED, Handicap
from bench.peers._library_model import Features, LibraryModel
from bench.peers._own_pass import huggingface_encoder, prove
from bench.peers._settings import SentenceTransformersSettings
from bench.results.analysis.tiers import OWN, Ran
from gram_core.batch import Batch, Texts, every_slot
from gram_core.methods._base import MethodBase
from gram_core.phases import phase
from gram_core.training import Gather, Training

LIBRARY = "sentence-transformers"
FIRST_MAJOR = 6
"""Its major version that brought `CachedLossMixin`."""


class SentenceTransformers(MethodBase):
    """The library's gradient caching."""

    name: ClassVar[str] = "sentence_transformers"
    same_on_the_engine: ClassVar[str] = "gradient_cache"
    """Which method does the same with the engine's encoder."""

    Settings: ClassVar[type[Any]] = SentenceTransformersSettings

    @staticmethod
    def requires() -> str | None:
        """See `MethodBase`."""
        command = f"pip install '{LIBRARY}>={FIRST_MAJOR}'"
        try:
            version = importlib.metadata.version(LIBRARY)
        except importlib.metadata.PackageNotFoundError:
            return f"{LIBRARY} is not installed: {command}"
        if int(version.partition(".")[0]) < FIRST_MAJOR:
            return f"{LIBRARY} {version} keeps its cached losses elsewhere: {command}"
        return None

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        given = huggingface_encoder(training, self.name)
        encoder = LibraryModel(given, training.amp_dtype, getattr(self.settings, "chunk_tokens", None))

        def own(texts: Texts) -> Tensor:
            with encoder.as_given():
                return given(texts)

        prove(self.name, encoder, own, given, training)
        self.training = replace(training, encoder=encoder)
        self._given, self._model, self._loss = given, encoder, self._make_loss()
        way = "packed" if encoder.padded is None else "padded"
        self.ran = Ran(f"{OWN}, {way}", encoder.padded)
        reason = f", since {encoder.padded}" if encoder.padded else ""
        self.handicaps = (
            UNCAPTURED,
            Handicap(
                f"it encodes as the library does, on every engine, with texts {way}{reason}; {self.same_on_the_engine} "
                "is the same with the engine's encoder"
            ),
            Handicap("on a processor its peak memory holds the library itself", "cpu"),
        )

    select = staticmethod(every_slot)

    def _make_loss(self) -> Any:
        return _cached_loss()(self.training, self.settings.chunk_tokens)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = self.select(batch)
            features = self._model.features(self.training.table.take(selection.items))
            read = self.training.gather(selection.slot_rows), batch
        loss = self._loss_of(features, read)
        with phase("ce_backward"):
            loss.backward()
        self.training.optimization.step()
        return loss.detach()

    def _loss_of(self, features: Features, read: tuple[Gather, Batch]) -> Tensor:
        loss: Tensor = self._loss.forward_cached([features], read)
        return loss

    def useful_flops(self, batches: Sequence[Batch]) -> float:
        """Operations per step on these batches, by the encoder's attention, whose operations are known."""
        passes = self.encoded_items(batches)
        with self._model.as_given():
            return step_flops(self.training, self._given, batches, passes, [False] * len(passes))


def encode(training: Training, features: Features) -> Tensor:
    """Encodings [n, d] by the library's model, in the training's precision, as the library's trainer has it."""
    with phase("ce_forward"), training.autocast():
        encodings: Tensor = training.encoder.encode(features)  # type: ignore[attr-defined]
        return encodings


class _Model(nn.Module):
    """A mini-batch of features -> its encodings, as the library's losses ask for them."""

    def __init__(self, run: Training):
        super().__init__()
        self.run = run

    def forward(self, features: Features) -> Features:
        return {"sentence_embedding": encode(self.run, features)}


@cache
def _cached_loss() -> Any:
    """The library's cached loss with our `calculate_loss`; imports the library."""
    from sentence_transformers.base.losses.gradcache import CachedLossMixin
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its hidden progress bars would leave a semaphore behind in every process

    class CachedCFLoss(CachedLossMixin, nn.Module):
        def __init__(self, run: Training, chunk_tokens: int):
            super().__init__()
            self.run = run
            self.model = _Model(run)
            self.mini_batch_size = 1
            self.mini_batch_num_tokens = chunk_tokens

        def calculate_loss(
            self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
        ) -> Tensor:
            gather: Gather
            batch: Batch
            gather, batch = labels
            with phase("cf"):
                loss = self.run.loss(gather(torch.cat(reps[0])), batch)
                if with_backward:
                    loss.backward()
            return loss.detach() if with_backward else loss

    return CachedCFLoss
