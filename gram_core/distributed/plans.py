"""What the ranks tell each other about a batch before it is stepped on: loss terms and unique items.

It takes place on the host, in a thread of its own, and for the next batch while the present one is stepped on, so that
no step waits for it. Every rank has to announce, and to step on, as many batches as the others.
U unique items of all ranks' batches together.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from gram_core.batch import Batch, ItemTable, unique_items
from gram_core.distributed.layout import Assign, Layout
from gram_core.distributed.ranks import Ranks
from gram_core.loss_terms import loss_terms
from gram_core.protocols import CFModule


@dataclass(frozen=True, eq=False)
class Plan:
    """What all ranks know of their batches of one step.

    own_terms, terms: of the loss of this rank's batch, and of the joined one.
    items: unique items of all ranks, sorted, [U], and layout: their owners; None where ranks keep to their own items.
    """

    own_terms: int
    terms: int
    items: Tensor | None
    layout: Layout | None

    @property
    def weight(self) -> float:
        """This rank's part of the joined batch's mean loss."""
        return self.own_terms / max(1, self.terms)

    @property
    def empty(self) -> bool:
        """Whether the joined batch's loss has no term of this rank."""
        return self.own_terms == 0


class Planner:
    """Plans of batches, in the order in which they are announced or, unannounced, asked for.

    joint: whether items are exchanged, or loss terms only.
    """

    def __init__(self, ranks: Ranks, table: ItemTable, cf_module: CFModule, joint: bool, assign: Assign):
        self._ranks, self._table, self._cf_module = ranks, table, cf_module
        self._joint, self._assign = joint, assign
        self._thread: ThreadPoolExecutor | None = None
        self._announced: deque[tuple[Batch, Future[Plan]]] = deque()
        self._current: tuple[Batch, Plan] | None = None

    def announce(self, batch: Batch) -> None:
        """Begins to plan `batch`, which will be stepped on after those announced before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="plans")
        self._announced.append((batch, self._thread.submit(self._plan, batch)))

    def settle(self) -> None:
        """Returns when every plan that was announced is made."""
        for _, plan in self._announced:
            plan.result()

    def begin(self, batch: Batch) -> Plan:
        """The plan of the batch that is now stepped on; raises ValueError where another one was announced."""
        if not self._announced:
            self.announce(batch)
        announced, plan = self._announced.popleft()
        if announced is not batch:
            raise ValueError("batches must be stepped on in the order in which they were announced")
        self._current = (batch, plan.result())
        return self._current[1]

    def current(self, batch: Batch) -> Plan:
        """The plan of the step that was begun; begins one where none was."""
        if self._current is None or self._current[0] is not batch:
            return self.begin(batch)
        return self._current[1]

    def _plan(self, batch: Batch) -> Plan:
        own_terms = loss_terms(self._cf_module, batch)
        own = unique_items(batch).items if self._joint else torch.empty(0, dtype=torch.int64)
        told = self._ranks.ahead_gather(torch.tensor([own_terms, len(own)], dtype=torch.int64))
        terms = int(told[:, 0].sum())
        if not self._joint:
            return Plan(own_terms, terms, None, None)
        counts = told[:, 1]
        wide = torch.zeros(max(1, int(counts.max())), dtype=torch.int64)
        wide[: len(own)] = own
        gathered = self._ranks.ahead_gather(wide)
        items = torch.unique(gathered[torch.arange(len(wide)) < counts[:, None]])
        owners = self._assign(self._table.lengths[items], self._ranks.size)
        return Plan(own_terms, terms, items, Layout(items, owners, self._ranks))
