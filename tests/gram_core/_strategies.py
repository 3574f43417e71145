"""Random batches and budgets of tokens, for hypothesis; apart from the models, which ranks import without it."""

from __future__ import annotations

import hypothesis.strategies as st
import torch

from gram_core.batch import Batch
from tests.gram_core import _models as m


@st.composite
def batches(draw: st.DrawFn, task: str) -> Batch:
    """Random batches: padding anywhere, empty histories, one unique item, all unique, heavy repetition."""
    users, history = draw(st.integers(1, 4)), draw(st.integers(1, m.HISTORY))
    slots = users * (history + m.CANDIDATES)
    kind = draw(st.sampled_from(["one unique item", "all unique", "heavy repetition", "free"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    pool = torch.randperm(m.ITEMS, generator=generator)
    if kind == "one unique item":
        pool = pool[:1]
    elif kind == "heavy repetition":
        pool = pool[:3]
    if kind == "all unique" and slots <= m.ITEMS:
        flat = pool[:slots]
    else:
        flat = pool[torch.randint(0, len(pool), (slots,), generator=generator)]
    rows = flat.view(users, history + m.CANDIDATES)
    mask = torch.rand(users, history, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    clicked = torch.randint(0, m.CANDIDATES, (users,), generator=generator)
    shown = torch.rand(users, m.CANDIDATES, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    shown[torch.arange(users), clicked] = True
    return m.batch_of(task, rows[:, :history], mask, rows[:, history:], shown, clicked)


BUDGETS = st.sampled_from([None, 1, m.TEXT_LENGTH, 2 * m.TEXT_LENGTH + 1, 5 * m.TEXT_LENGTH, 10_000])
KEPT = st.sampled_from([None, 0, 1, m.TEXT_LENGTH, 3 * m.TEXT_LENGTH, 10_000])
