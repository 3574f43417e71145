"""What the ranks tell each other about a batch before it is stepped on: loss terms and unique items.

It takes place on the host, and for the next batches while the present one is stepped on, so that no step waits for it.
Every rank has to announce, and to step on, as many batches as the others.
U unique items of all ranks' batches together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gram_core.batch import Batch, Selection, unique_items
from gram_core.distributed.layout import Assign, Layout
from gram_core.distributed.ranks import Ranks
from gram_core.protocols import CFModule, ItemSource, loss_terms
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


@dataclass(eq=False)
class _Announced:
    """A batch whose plan is being made: what this rank says of it, and what all ranks do, once `work` is done."""

    batch: Batch
    own_terms: int
    own: Selection | None
    told: Tensor
    work: Any
    plan: Plan | None = None


class Planner:
    """Plans of batches, in the order in which they are announced or, unannounced, asked for.

    joint: whether items are exchanged, or loss terms only. assign: chooses owners of what one step encodes; None where
    a plan has none. costs: what decides whether a step's items are shared; None always shares them.
    """

    def __init__(
        self,
        ranks: Ranks,
        table: ItemSource,
        cf_module: CFModule,
        joint: bool,
        assign: Assign | None,
        costs: ExchangeCosts | None = None,
    ):
        self._ranks, self._table, self._cf_module = ranks, table, cf_module
        self._joint, self._assign, self._costs = joint, assign, costs
        self.shared: WeakKeyDictionary[Batch, bool] = WeakKeyDictionary()
        """Of each batch whether its items are shared among ranks."""
        self._room = FEWEST_ITEMS if joint else 0
        """Items that fit what ranks exchange at once; the same on all of them."""
        self._announced: deque[_Announced] = deque()
        self._current: tuple[Batch, Plan] | None = None

    def announce(self, batch: Batch) -> None:
        """Begins to plan `batch`, which will be stepped on after those announced before."""
        own = unique_items(batch) if self._joint else None
        terms = loss_terms(self._cf_module, batch)
        told, work = self._ranks.ahead_gather(self._message(terms, own))
        self._announced.append(_Announced(batch, terms, own, told, work))

    def settle(self) -> None:
        """Returns when every plan that was announced is made."""
        for announced in self._announced:
            self._resolve(announced)

    def begin(self, batch: Batch) -> Plan:
        """The plan of the batch that is now stepped on; raises ValueError where another one was announced."""
        if not self._announced:
            self.announce(batch)
        announced = self._announced.popleft()
        if announced.batch is not batch:
            raise ValueError("batches must be stepped on in the order in which they were announced")
        self._current = (batch, self._resolve(announced))
        return self._current[1]

    def current(self, batch: Batch) -> Plan:
        """The plan of the step that was begun; begins one where none was."""
        if self._current is None or self._current[0] is not batch:
            return self.begin(batch)
        return self._current[1]

    def _message(self, terms: int, own: Selection | None) -> Tensor:
        """What a rank says of its batch, int64 [2 + room]: terms of the loss, unique items, and as many as fit."""
        message = torch.zeros(2 + self._room, dtype=torch.int64)
        message[0] = terms
        if own is not None:
            message[1] = len(own.items)
            held = own.items[: self._room]
            message[2 : 2 + len(held)] = held
        return message

    def _resolve(self, announced: _Announced) -> Plan:
        if announced.plan is None:
            announced.work.wait()
            announced.plan = self._plan(announced)
        return announced.plan

    def _plan(self, announced: _Announced) -> Plan:
        told, terms = announced.told, int(announced.told[:, 0].sum())
        if announced.own is None:
            return Plan(announced.own_terms, terms)
        counts = told[:, 1].tolist()
        if max(counts) > told.shape[1] - 2:  # all ranks see it, and say all at once
            self._room = max(self._room, 1 << (max(counts) - 1).bit_length())
            told, work = self._ranks.ahead_gather(self._message(announced.own_terms, announced.own))
            work.wait()
        parts = [row[2 : 2 + count] for row, count in zip(told, counts, strict=True)]
        items, _ = distinct(torch.cat(parts))
        if self._assign is None:
            return Plan(announced.own_terms, terms, announced.own, items)
        tokens = self._table.lengths[items]
        owners = self._assign(tokens, self._ranks.size)
        most = int(torch.bincount(owners, tokens).max()) if len(items) else 0
        layout = Layout(items, owners, self._ranks)
        self.shared[announced.batch] = self._pays(parts, most, layout.largest_share)
        if not self.shared[announced.batch]:
            return Plan(announced.own_terms, terms, announced.own, items)
        return Plan(announced.own_terms, terms, announced.own, items, layout, most)

    def _pays(self, parts: Sequence[Tensor], shared_tokens: int, rows: int) -> bool:
        """parts: every rank's own unique items."""
        if self._costs is None:
            return True
        local_tokens = max(int(self._table.lengths[part].sum()) for part in parts)
        return self._costs.sharing_pays(local_tokens, shared_tokens, rows)


@dataclass(frozen=True)
class ExchangeCosts:
    """What `deduplicate="auto"` weighs, in seconds; the same on every rank.

    token_s: of one token that passes the encoder forwards and backwards. row_s, exchange_s: of an exchange of encodings
    and of their gradients, for each row of a rank and whatever there are.
    """

    token_s: float
    row_s: float
    exchange_s: float

    def sharing_pays(self, local_tokens: int, shared_tokens: int, rows: int) -> bool:
        """Whether the slowest rank is done earlier with `shared_tokens`, after an exchange of so many rows of each
        rank, than with `local_tokens` and none."""
        return (local_tokens - shared_tokens) * self.token_s > self.exchange_s + rows * self.row_s
