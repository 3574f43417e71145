"""A frozen content encoder: each item is encoded once, kept, and only the CF module trains.

The lower bound on what an encoder costs: the paper's NoFinetune. Its encodings are the encoder's in evaluation mode,
of the items touched so far and no others. U unique items.
"""

from typing import ClassVar

from torch import Tensor

from bench.methods import Handicap
from bench.peers._keeping import Keeping, KeptEncodings
from bench.peers._settings import FrozenSettings
from gram_core.batch import Batch, unique_items
from gram_core.evaluation import encode_all
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class Frozen(Keeping):
    """The encoder stays as it is."""

    name: ClassVar[str] = "frozen"
    exactness: ClassVar[Exactness] = "other-model"
    forward_only: ClassVar[bool] = True
    handicaps = (
        Handicap(
            "the first steps encode most items: a short measurement shows more of that than a long training does",
            "measured",
        ),
        Handicap(
            "on the fast engine at most its CF step is replayed from graphs: items are encoded and read kernel by "
            "kernel",
            "against graphs",
        ),
    )

    Settings = FrozenSettings

    def __init__(self, training: Training, settings: FrozenSettings | None = None):
        super().__init__(training, settings)
        self._kept: KeptEncodings = KeptEncodings(len(training.table), training.device)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of the CF module."""
        with phase("host"):
            selection = unique_items(batch)
            new = selection.items[~self._kept.holds(selection.items)]
            self._passes.note(batch, new)
        if len(new):
            self._kept.write(new, encode_all(self.training, new, self.settings.encode_batch_tokens))
        return self.training.cf_step(self._kept.read(selection.items), selection.slot_rows, batch)
