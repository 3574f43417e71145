"""The cached losses of the library sentence-transformers, as installed, around our CF loss.

What is the library's: cutting a batch into mini-batches by tokens, the forward pass without a graph, random states, and
the hook that encodes again and back-propagates (`CachedLossMixin`, of which a loss "only has to provide
`calculate_loss`"; its CachedMultipleNegativesRankingLoss is built on it). What is ours: the CF module's loss in place
of the in-batch negatives, and the encoder, which is every method's. As in the library, every slot is a text of its own.
n item slots, d width.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.handicaps import Handicap
from bench.peers._handicaps import UNCAPTURED
from gram_core.batch import Batch, every_slot
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Gather, Training

LIBRARY = "sentence-transformers"
FIRST_MAJOR = 6
"""Its major version that brought `CachedLossMixin`."""


class SentenceTransformers:
    """The library's gradient caching."""

    name: ClassVar[str] = "sentence_transformers"
    exactness: ClassVar[Exactness] = "exact"
    handicaps: ClassVar[tuple[Handicap, ...]] = (
        UNCAPTURED,
        Handicap(
            "its own way to leave padding out needs a flash-attention wheel; it gets the engine's encoder instead"
        ),
        Handicap("on a processor its peak memory holds the library itself", "cpu"),
    )

    @dataclass(frozen=True)
    class Settings:
        """chunk_tokens: the library's mini_batch_num_tokens, which it says trains fastest; padding counts, as in
        every chunk_tokens here. Only bounds memory."""

        chunk_tokens: int = 32768

    @staticmethod
    def requires() -> str | None:
        """Why it can't run here, with the command that mends it; None where it can."""
        command = f"pip install '{LIBRARY}>={FIRST_MAJOR}'"
        try:
            version = importlib.metadata.version(LIBRARY)
        except importlib.metadata.PackageNotFoundError:
            return f"{LIBRARY} is not installed: {command}"
        if int(version.partition(".")[0]) < FIRST_MAJOR:
            return f"{LIBRARY} {version} keeps its cached losses elsewhere: {command}"
        return None

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()
        self._loss = _cached_loss()(training, self.settings.chunk_tokens)

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = every_slot(batch)
            features = self._features(selection.items)
            read = self.training.gather(selection.slot_rows), batch
        loss = self._loss.forward_cached([features], read)
        with phase("ce_backward"):
            loss.backward()
        self.training.optimization.step()
        return loss.detach()

    def _features(self, items: Tensor) -> dict[str, Tensor]:
        """One input column, as the library cuts it: the mask is what it counts tokens by, the last entry where it
        looks for the device whose random state is to be replayed."""
        tokens = self.training.encoder.computed_tokens(self.training.table.lengths[items])
        mask = torch.arange(int(tokens.max())) < tokens[:, None]
        return {"items": items, "attention_mask": mask, "place": torch.empty(len(items), device=self.training.device)}

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, one tensor per step; a second forward not counted."""
        return [every_slot(batch).items for batch in batches]


class _Model(nn.Module):
    """A mini-batch of features -> its encodings, as the library's models answer."""

    def __init__(self, run: Training):
        super().__init__()
        self.run = run

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.run.encode(features["items"])}


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
