"""A frozen content encoder: each item is encoded once, kept, and only the CF module trains.

The lower bound on what an encoder costs: the paper's NoFinetune. Its encodings are the encoder's in evaluation mode,
of the items touched so far and no others. U unique items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.limitations import Handicap
from bench.peers._embedding_cache import KeptEncodings
from bench.peers._passes import Passes
from gram_core.batch import Batch, unique_items
from gram_core.evaluation import encode_all
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class Frozen:
    """The encoder stays as it is."""

    name: ClassVar[str] = "frozen"
    exactness: ClassVar[Exactness] = "other-model"
    forward_only: ClassVar[bool] = True
    """No pass of the encoder has a backward: what operations are counted by."""
    handicaps: ClassVar[tuple[Handicap, ...]] = (
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

    @dataclass(frozen=True)
    class Settings:
        """encode_batch_tokens: the most tokens encoded at once; None is no limit. Only bounds memory."""

        encode_batch_tokens: int | None = None

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()
        self._kept = KeptEncodings(len(training.table), training.device)
        self._passes = Passes()

    @property
    def interval(self) -> int:
        """No step updates the encoder; each is like the others."""
        return 1

    @property
    def kept_bytes(self) -> int:
        """What the encodings kept take on the device."""
        return self._kept.nbytes

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of the CF module."""
        with phase("host"):
            selection = unique_items(batch)
            new = selection.items[~self._kept.holds(selection.items)]
            self._passes.note(batch, new)
        if len(new):
            self._kept.write(new, encode_all(self.training, new, self.settings.encode_batch_tokens))
        return self.training.cf_step(self._kept.read(selection.items), selection.slot_rows, batch)

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items that were new to it when these batches were stepped on."""
        return self._passes.of(batches)

    def state(self) -> dict[str, Tensor]:
        """The encodings kept so far."""
        return self._kept.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Keeps what `state` kept."""
        self._kept.restore(state)
