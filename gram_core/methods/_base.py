"""What methods have in common: the defaults of those whose every step updates the encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from gram_core.batch import Batch, unique_items
from gram_core.methods._settings import Nothing
from gram_core.protocols import Exactness
from gram_core.training import Training


class MethodBase:
    """A method says how it steps, and overrides what else it does otherwise.

    exact_with: settings with which a stale method is exact. distributes: whether it is written for several processes;
    each class says so for itself. forward_only: whether no pass of the encoder has a backward.
    handicaps: in which respects it could not be given its best. ran: by what way of its own it runs the encoder, where
    it does not take the engine's. tier: how the fast engine runs it, which sets it. kept_bytes: what it keeps between
    steps besides weights and optimizer state.
    """

    name: ClassVar[str]
    exactness: ClassVar[Exactness] = "exact"
    exact_with: ClassVar[Mapping[str, Any] | None] = None
    distributes: ClassVar[bool] = False
    forward_only: ClassVar[bool] = False
    handicaps: tuple[Any, ...] = ()
    ran: Any = None
    tier: Any = None
    Settings: ClassVar[type[Any]] = Nothing
    training: Training
    settings: Any

    def __init__(self, training: Training, settings: Any = None):
        self.training = training
        self.settings = settings or self.Settings()

    @staticmethod
    def requires() -> str | None:
        """Why it can't run here, with the command that mends it; None where it can."""
        return None

    @property
    def interval(self) -> int:
        """CF steps per update of the encoder."""
        return 1

    @property
    def kept_bytes(self) -> int | None:
        """See above; None where it keeps nothing."""
        return None

    select = staticmethod(unique_items)
    """Which items get an encoding: here each unique one gets one."""

    def step(self, batch: Batch) -> Tensor:
        """Trains on one batch; returns its loss, detached and unsynchronised."""
        raise NotImplementedError

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, one tensor per step; recomputation not counted."""
        return [self.select(batch).items for batch in batches]

    def useful_flops(self, batches: Sequence[Batch]) -> float | None:
        """Operations per step on these batches, of a method that does not send whole texts through the encoder."""
        return None
