"""`gram-bench verify` on several processes: do they leave together what one leaves on their joined batch?

The same case, in float64, is stepped on by ranks with unequally many users, of which the last has none in the last
step; what the optimizers get, and where parameters arrive, is compared with one process that has all users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from bench.build import distributed
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import MethodLine
from bench.methods import REFERENCE, method_class
from bench.processes.fork_server import Worker, WorkerEnded
from bench.verify.case import VerifiedCase, worst_of
from gram_core.batch import Batch
from gram_core.exactness import Float64Throughout, total_norm
from gram_core.training import Training

if TYPE_CHECKING:
    from gram_core.distributed import Ranks

PATIENCE_S = 900.0


@dataclass(frozen=True)
class Asked:
    """What the ranks are to compare: case.world_size of them, the methods of `lines` and end-to-end training."""

    config: Config
    case: Case
    lines: tuple[MethodLine, ...]
    device: str
    steps: int
    users: int | None


@dataclass(frozen=True)
class Compared:
    """One comparison: the largest relative error over all ranks. what: gradients, or parameters after the steps."""

    check: str
    line: MethodLine
    what: Literal["gradients", "parameters"]
    error: float
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What was compared on which batch; facts is empty where the ranks failed, and then the note says why."""

    facts: str
    rows: tuple[Compared, ...]


def compare(asked: Asked) -> Answer:
    """Starts the ranks, lets them compare, and ends them."""
    with Worker(lead, asked, leads=True) as process:
        try:
            answer: Any = process.receive(PATIENCE_S)
        except WorkerEnded as end:
            return _failed(f"the processes ended with exit code {end.exit_code}: {process.output_tail[-200:]}")
        return answer if answer is not None else _failed(f"no answer within {PATIENCE_S:g} s")


def lead(connection: Connection, asked: Asked, output: int) -> None:
    """Starts the ranks in a process that has computed nothing, since they are forked from it."""
    import tempfile

    from bench.worker import entry
    from bench.worker.launcher import launch

    entry.begin(output)
    with tempfile.TemporaryDirectory(prefix="gram-bench-ranks-") as folder:
        try:
            launch(asked.config.run, asked.case.world_size, folder, member, connection, asked)
        except Exception as error:
            connection.send(_failed(_sentence(error)))


def member(connection: Connection, asked: Asked) -> None:
    """One rank; the first tells what all found."""
    from bench.processes import signals
    from bench.worker.rank import own_device
    from gram_core.distributed import connect

    signals.hold()
    torch.set_num_threads(1)
    device = own_device(asked.device == "cuda")
    ranks = connect(device)
    answer = None
    try:
        with Float64Throughout():
            case = RankedCase(asked, ranks, device)
            answer = Answer(case.facts, tuple(_compared(asked, case)))
    except Exception as error:
        answer = _failed(_sentence(error))
        raise
    finally:
        if ranks.rank == 0 and answer is not None:
            connection.send(answer)
    ranks.host_sum(torch.zeros(1))  # nobody leaves before all are done: the agent ends all when one goes early


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _failed(note: str) -> Answer:
    return Answer("", (Compared("runs", MethodLine(REFERENCE, "eager"), "gradients", float("inf"), note),))


class RankedCase(VerifiedCase):
    """The case as one of several ranks steps on it; with `deduplicate` None, as one process on the joined batch."""

    def __init__(self, asked: Asked, ranks: Ranks, device: torch.device):
        alone = replace(asked.case, world_size=1)
        super().__init__(asked.config, alone, device, asked.steps, asked.users)
        self.ranks = ranks
        self.deduplicate: str | None = None

    @property
    def facts(self) -> str:
        """What the first batch holds, and whose users those are."""
        users = "+".join(str(count) for count in self._parts(0))
        return f"{super().facts}, by process {users}"

    def _parts(self, number: int) -> list[int]:
        """Users of each rank: the first has most, and in the last step the last has none."""
        users, size = self.batches[number].users, self.ranks.size
        parts = [users // (size + 1)] * size
        if number == len(self.batches) - 1:
            parts[-1] = 0
        return [users - sum(parts[1:]), *parts[1:]]

    def _trained(self, training: Training) -> Training:
        return (
            training
            if self.deduplicate is None
            else distributed.distributed(training, self.ranks, self.deduplicate, self.config.run)
        )

    def _stepped_on(self, number: int, batch: Batch) -> Batch:
        if self.deduplicate is None:
            return batch
        parts = self._parts(number)
        start = sum(parts[: self.ranks.rank])
        rows = slice(start, start + parts[self.ranks.rank])
        return Batch(batch.items[rows], batch.mask[rows], batch.targets[rows], batch.history_length)


def _compared(asked: Asked, case: RankedCase) -> Iterator[Compared]:
    e2e = method_class(REFERENCE)
    reference = case.trace(e2e)
    norm = total_norm(reference.gradients.values()) / 2
    clipped = case.gradients(e2e, max_grad_norm=norm)
    lines = [MethodLine(REFERENCE, "eager"), *asked.lines]
    for line in dict.fromkeys(lines):
        method = method_class(line.method, asked.config.run.plugins)
        if not vars(method).get("distributes", False):
            continue
        exact = method.exactness == "exact"
        settings = method.Settings(**(asked.config.method.get(line.method, {}) if exact else {"accumulation_steps": 2}))
        ways = ("local",) if line.method == REFERENCE else ("local", "global") if exact else ("global",)
        case.deduplicate = None
        expected = reference if exact else case.trace(method, settings)
        for way in ways:
            case.deduplicate = way
            found = case.trace(method, settings, line.engine)
            shown = replace(line, accumulation_steps=getattr(settings, "accumulation_steps", None))
            yield _row(case, f"gradients, {way}", shown, "gradients", found.gradients, expected.gradients)
            if exact:
                small = case.gradients(method, settings, line.engine, max_grad_norm=norm)
                yield _row(case, f"gradients, clipped, {way}", shown, "gradients", small, clipped)
            check = f"parameters, {asked.steps} {asked.config.run.optimizer} steps, {way}"
            moved, distance = (case.moved(trace, expected) for trace in (found, expected))
            yield _row(case, check, shown, "parameters", moved, distance)


def _row(
    case: RankedCase,
    check: str,
    line: MethodLine,
    what: Literal["gradients", "parameters"],
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> Compared:
    each = case.ranks.all_values(worst_of(found, expected))
    (error, note), rank = max(zip(each, range(case.ranks.size), strict=True))
    return Compared(check, line, what, error, f"{note} on process {rank}" if note else "")
