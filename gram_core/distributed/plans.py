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

from gram_core.batch import Batch, ItemTable, Selection, unique_items
from gram_core.distributed.layout import Assign, Layout
from gram_core.distributed.ranks import Ranks
from gram_core.loss_terms import loss_terms
from gram_core.protocols import CFModule
from gram_core.small_numbers import distinct

FEWEST_ITEMS = 1024


@dataclass(frozen=True, eq=False)
class Plan:
    """What all ranks know of their batches of one step.

    own_terms, terms: of the loss of this rank's batch, and of the joined one.
    own: this rank's unique items. items: those of all ranks, sorted, [U]. layout: their owners. None where ranks keep
    to their own items, the layout also where owners are chosen otherwise. most_tokens: of the owner with most.
    """

    own_terms: int
    terms: int
    own: Selection | None = None
    items: Tensor | None = None
    layout: Layout | None = None
    most_tokens: int = 0

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

    joint: whether items are exchanged, or loss terms only. assign: chooses owners of what one step encodes; None where
    a plan has none.
    """

    def __init__(self, ranks: Ranks, table: ItemTable, cf_module: CFModule, joint: bool, assign: Assign | None):
        self._ranks, self._table, self._cf_module = ranks, table, cf_module
        self._joint, self._assign = joint, assign
        self._room = FEWEST_ITEMS
        """Items that fit what ranks exchange at once; the same on all of them."""
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
        if not self._joint:
            told = self._ranks.ahead_gather(torch.tensor([own_terms], dtype=torch.int64))
            return Plan(own_terms, int(told.sum()))
        own = unique_items(batch)
        terms, items = self._exchanged(own_terms, own.items)
        if self._assign is None:
            return Plan(own_terms, terms, own, items)
        tokens = self._table.lengths[items]
        owners = self._assign(tokens, self._ranks.size)
        most = int(torch.bincount(owners, tokens).max()) if len(items) else 0
        return Plan(own_terms, terms, own, items, Layout(items, owners, self._ranks), most)

    def _exchanged(self, own_terms: int, own: Tensor) -> tuple[int, Tensor]:
        """The sum of all ranks' terms, and their distinct items; in one exchange where all have room for them."""
        while True:
            message = torch.zeros(2 + self._room, dtype=torch.int64)
            message[0], message[1] = own_terms, len(own)
            held = own[: self._room]
            message[2 : 2 + len(held)] = held
            told = self._ranks.ahead_gather(message)
            counts = told[:, 1].tolist()
            if max(counts) <= self._room:
                parts = [row[2 : 2 + count] for row, count in zip(told, counts, strict=True)]
                return int(told[:, 0].sum()), distinct(torch.cat(parts))[0]
            self._room = 1 << (max(counts) - 1).bit_length()
