"""Several ranks leave what one process leaves on the joined batch: gradients, and parameters after four AdamW steps."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gram_core.distributed.layout import balanced_owners
from gram_core.distributed.plans import ExchangeCosts
from gram_core.protocols import loss_terms
from tests.gram_core import _models as m
from tests.gram_core import _ranks
from tests.gram_core._ranks import RATE, STEPS, Trial

TOLERANCE = 1e-10
CAPTURED = {"engine": "captured", "pooling": "mean"}
"""What the fast engine captures on a GPU, run as it is: gathers, sums and moves of one function."""
both = pytest.mark.parametrize("engine", [{}, CAPTURED], ids=["launched", "captured"])
EQUAL = {1: (12,), 2: (6, 6), 3: (4, 4, 4), 4: (3, 3, 3, 3)}
UNEQUAL = {2: (9, 3), 3: (1, 7, 4), 4: (5, 1, 4, 2)}
ABSENT = {2: (12, 0), 3: (5, 0, 7), 4: (0, 4, 8, 0)}
LINES = [
    ("e2e", "local"), ("e2e_unique", "local"), ("e2e_unique", "global"), ("single_step", "local"),
    ("single_step", "global"), ("multi_step", "global"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ranks():
    with _ranks.pool() as made:
        yield made


def check(ranks, trial):
    found, *_ = ranks.on(trial.size, _ranks.compared, trial)
    assert found.alive > 1e-3
    assert found.gradients <= TOLERANCE
    assert found.parameters <= TOLERANCE
    assert found.silent <= 1e-6 * RATE * STEPS  # moved by rounding noise alone; see test_exactness
    assert found.apart == 0
    assert found.losses <= TOLERANCE


def settings_of(method):
    return {"accumulation_steps": 3} if method == "multi_step" else {}


def lines_of(*sizes):
    """Every line, on as many ranks as these say in turn; each of them meets local and shared items."""
    return [(*line, sizes[(number + number // 2) % len(sizes)]) for number, line in enumerate(LINES)]


@pytest.mark.parametrize(
    ("method", "deduplicate", "size", "engine"),
    [*((*line, {}) for line in lines_of(1, 3)), *((*line, CAPTURED) for line in lines_of(4, 1))],
)
def test_ranks_with_equally_many_users(ranks, method, deduplicate, size, engine):
    options = {"deduplicate": deduplicate, "settings": settings_of(method), **engine}
    check(ranks, Trial(method, size=size, users=EQUAL[size], **options))


@pytest.mark.parametrize(("method", "deduplicate", "size"), lines_of(2, 4))
def test_unequally_many_users_at_last_none_and_clipping(ranks, method, deduplicate, size):
    """Each user counts alike wherever it is, and the norm that is clipped is the joined gradient's."""
    users = {"users": UNEQUAL[size], "last_users": ABSENT[size]}
    options = {"deduplicate": deduplicate, "max_grad_norm": 0.5, "settings": settings_of(method)}
    check(ranks, Trial(method, size=size, **users, **options))


@both
@pytest.mark.parametrize("cf_module", [name for name in m.CF_MODULES if name != "nrms"])
@pytest.mark.parametrize(
    ("method", "deduplicate"), [("e2e", "local"), ("single_step", "global"), ("multi_step", "global")]
)
def test_every_cf_module(ranks, method, deduplicate, cf_module, engine):
    """A loss that is a mean over slots counts by slots, of which users have unequally many."""
    options = {"deduplicate": deduplicate, "settings": settings_of(method), **engine}
    check(ranks, Trial(method, cf_module, users=UNEQUAL[2], last_users=ABSENT[2], **options))


@both
@pytest.mark.parametrize("method", ["e2e_unique", "single_step", "multi_step"])
def test_one_rank_owns_everything(ranks, method, engine):
    """The others encode nothing, or a text of nothing, and take part all the same."""
    check(ranks, Trial(method, owner=1, settings=settings_of(method), **engine))


@pytest.mark.parametrize("method", ["single_step", "multi_step"])
def test_nothing_repeats(ranks, method):
    check(ranks, Trial(method, items="distinct", settings=settings_of(method)))


@both
@pytest.mark.parametrize("deduplicate", ["local", "global"])
def test_chunks_of_unequal_number(ranks, deduplicate, engine):
    """Ranks encode in as many chunks as each needs, some of them twice; nobody captures chunks of several processes."""
    tight = {"chunk_tokens": 2 * m.TEXT_LENGTH, "kept_tokens": 3 * m.TEXT_LENGTH}
    check(ranks, Trial(users=UNEQUAL[2], deduplicate=deduplicate, settings=tight, **engine))


@both
@pytest.mark.parametrize(
    "settings",
    [{"accumulation_steps": 4, "ce_batch_tokens": 40, "ce_passes": 2},
     {"accumulation_steps": 2, "pseudo_target_loss": "sum", "pseudo_target_rate": 0.3}],
    ids=["minibatches in a budget", "sums at a rate"],
)  # fmt: skip
def test_multi_step_settings(ranks, settings, engine):
    """The scale of pseudo-targets is that of all ranks' responses."""
    check(ranks, Trial("multi_step", users=UNEQUAL[2], settings=settings, **engine))


@pytest.mark.parametrize("method", ["e2e", "single_step", "multi_step"])
@pytest.mark.parametrize("options", [{"max_grad_norm": 0.5}, CAPTURED], ids=["launched", "captured"])
def test_optimizer_state_in_parts(ranks, method, options):
    """ZeRO-1 moves parameters as a whole optimizer does."""
    check(ranks, Trial(method, sharding="zero1", settings=settings_of(method), **options))


@pytest.mark.parametrize(("method", "deduplicate"), [("e2e", "local"), ("single_step", "local")])
def test_encoder_in_parts(ranks, method, deduplicate):
    """FSDP2: unequal users, a rank without any at last, and a norm whose parts lie on several ranks."""
    trial = Trial(method, users=UNEQUAL[2], last_users=ABSENT[2], deduplicate=deduplicate, sharding="fsdp2")
    check(ranks, trial)


def test_encoder_in_parts_one_of_which_encodes_nothing(ranks):
    check(ranks, Trial(owner=0, sharding="fsdp2", max_grad_norm=0.5))


@pytest.mark.parametrize("mistake", ["users count by rank", "gradients stay apart", "encodings' gradients stay apart"])
def test_a_mistake_is_noticed(ranks, mistake):
    """Guard: what these comparisons are there for is far beyond their tolerance."""
    found, *_ = ranks.on(2, _ranks.compared_with_a_mistake, Trial(users=UNEQUAL[2]), mistake)
    assert found.gradients > 1e-3


@pytest.mark.parametrize(("method", "deduplicate"), LINES)
def test_captured_steps_with_unequally_many_users_at_last_none_and_clipping(ranks, method, deduplicate):
    """Room for rows is the same on all ranks; one without users takes part in every exchange."""
    users = {"users": UNEQUAL[3], "last_users": ABSENT[3]}
    options = {"deduplicate": deduplicate, "max_grad_norm": 0.5, "settings": settings_of(method), **CAPTURED}
    check(ranks, Trial(method, size=3, **users, **options))


@pytest.mark.parametrize(("method", "deduplicate"), [("e2e", "local"), ("multi_step", "global")])
def test_captured_steps_of_eight_ranks(ranks, method, deduplicate):
    """Unequally many users, in the last step on two ranks only; the least and the most that a method exchanges."""
    users = {"users": (3, 1, 2, 1, 0, 2, 2, 1), "last_users": (0, 0, 7, 0, 0, 5, 0, 0)}
    check(ranks, Trial(method, size=8, deduplicate=deduplicate, settings=settings_of(method), **users, **CAPTURED))


class TestSharingWhereItPays:
    """deduplicate = "auto": one token costs a second, an exchange so much that some steps pay for it and some don't."""

    COSTS = ExchangeCosts(token_s=1.0, row_s=0.0, exchange_s=6.0)

    @both
    @pytest.mark.parametrize("method", ["e2e_unique", "single_step", "multi_step"])
    def test_the_gradient_is_the_same(self, ranks, method, engine):
        settings = {"settings": settings_of(method), "costs": self.COSTS, **engine}
        check(ranks, Trial(method, users=UNEQUAL[2], deduplicate="auto", **settings))

    def test_steps_are_shared_where_tokens_saved_outweigh_the_exchange(self, ranks):
        """Some are and some aren't, by the same rule on every rank, counted from each rank's own items."""
        chosen, expected = ranks.on(2, _ranks.shared_steps, self.COSTS)[0]
        assert chosen == expected
        assert set(chosen) == {True, False}, "one way only was chosen, so nothing was shown"
        assert ranks.on(2, _ranks.shared_steps, self.COSTS)[1][0] == chosen

    def test_without_costs_it_is_refused(self, ranks):
        (message, _) = ranks.on(2, _ranks.auto_without_costs)
        assert "weighs what an exchange costs" in message


class TestPlans:
    def test_batches_in_another_order_than_announced_are_refused(self, ranks):
        """Ranks would otherwise mistake each other's batches."""
        told = ranks.on(2, _ranks.stepped_out_of_order)
        assert told == ["batches must be stepped on in the order in which they were announced"] * 2

    def test_the_next_batches_are_planned_while_this_one_is_stepped_on(self, ranks):
        assert ranks.on(2, _ranks.planned_ahead) == [True, True]

    def test_a_batch_without_any_item_is_refused_on_every_rank(self, ranks):
        assert ranks.on(2, _ranks.stepped_on_nothing) == ["a batch holds no item"] * 2


class TestOwners:
    @given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 8))
    @settings(max_examples=60)
    def test_shares_differ_by_one_item_and_one_text_at_most(self, lengths, size):
        tokens = torch.tensor(lengths, dtype=torch.int64)
        owners = balanced_owners(tokens, size)
        counts = torch.bincount(owners, minlength=size)
        sums = torch.zeros(size, dtype=torch.int64).index_add_(0, owners, tokens)
        assert int(counts.max() - counts.min()) <= 1
        assert int(sums.max() - sums.min()) <= max(lengths, default=0)

    def test_equal_texts_are_owned_the_same_everywhere(self):
        """Ties are broken by the place, which all ranks agree on."""
        tokens = torch.full((50,), 7)
        assert torch.equal(balanced_owners(tokens, 3), balanced_owners(tokens.clone(), 3))


@pytest.mark.parametrize("name", m.CF_MODULES)
def test_the_loss_of_joined_batches_is_the_mean_of_theirs_by_terms(name):
    """A CF module whose loss is a mean over something else must say so with `terms`."""
    module = m.make_cf_module(name, 32).eval()
    joined = m.make_batch(module.task, users=8)
    slots = torch.randn(*joined.items.shape, 32, dtype=torch.float64) * joined.mask[..., None]
    parts = [_ranks.part_of(joined, (3, 5), rank) for rank in (0, 1)]
    losses = [float(module.loss(rows, part)) for rows, part in zip(slots.split([3, 5]), parts, strict=True)]
    terms = [loss_terms(module, part) for part in parts]
    mean = sum(t * loss for t, loss in zip(terms, losses, strict=True)) / sum(terms)
    assert mean == pytest.approx(float(module.loss(slots, joined)), rel=1e-12)
    assert losses[0] != pytest.approx(losses[1])
