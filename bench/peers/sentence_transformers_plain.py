"""The library sentence-transformers as installed, with its plain losses: one pass over every slot, our CF loss.

Its MultipleNegativesRankingLoss and its kin encode a batch's columns whole, with a graph, and back-propagate once.
n item slots, d width.
"""

from typing import Any, ClassVar

from torch import Tensor

from bench.peers._library_model import Features
from bench.peers.sentence_transformers import SentenceTransformers, encode
from gram_core.batch import Batch
from gram_core.methods._settings import Nothing
from gram_core.phases import phase
from gram_core.training import Gather


class SentenceTransformersPlain(SentenceTransformers):
    """The library's model, the whole graph kept."""

    name: ClassVar[str] = "sentence_transformers_plain"
    same_on_the_engine: ClassVar[str] = "e2e"

    Settings: ClassVar[type[Any]] = Nothing

    def _make_loss(self) -> Any:
        return None

    def _loss_of(self, features: Features, read: tuple[Gather, Batch]) -> Tensor:
        gather, batch = read
        encodings = encode(self.training, features)
        with phase("cf"):
            return self.training.loss(gather(encodings), batch)
