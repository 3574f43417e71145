"""Shapes have the sizes of the paper's Table 3, exactly, and the laws that they state; no two users' items repeat."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.build.assembly import build as build_method
from bench.configuration.config import load, restore
from bench.configuration.sweep import plan
from bench.errors import ConfigError
from bench.workloads import shape
from bench.workloads._base import WorkloadRequest
from bench.workloads._synth import laws, synthesis


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path))
    return tmp_path


def build(name, options=None, **changes):
    task = shape.SHAPES[name].task
    case = {"batch_size": 16, "history_length": 50, "text_length": 64, "seed": 0, "vocab_size": 500, "pad_token_id": 0}
    ends = {"opening_token_id": 1, "closing_token_id": 2, "task": task, "argument": name}
    return shape.build(shape.Settings(**(options or {})), WorkloadRequest(**{**case, **ends, **changes}))


@pytest.mark.parametrize("name", ["spanish", "french", "poj"])
def test_a_shape_has_the_sizes_of_its_row(name):
    row, facts = shape.SHAPES[name], build(name).facts
    assert (facts["users"], facts["items"], facts["interactions"]) == (row.users, row.items, row.interactions)
    assert facts["mean_text_tokens_uncut"] == pytest.approx(row.text_tokens, abs=1e-3)
    assert "drawn at random" in facts["log"]
    assert build(name).log == "synthetic"


def test_a_scaled_shape_has_fewer_users_and_all_items():
    """A batch must repeat its items as in the whole log, else a step's speed-up would not be the shape's."""
    whole, scaled = build("poj"), build("poj", {"scale": 0.05})
    assert (scaled.facts["users"], scaled.facts["interactions"]) == (1106, 44919)
    assert scaled.facts["items"] == len(scaled.table) == 2597
    ratios = [
        np.mean([b.item_slots / len(b.items[b.mask].unique()) for b in map(workload.batches, range(20))])
        for workload in (whole, scaled)
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.1)
    assert ratios[0] > 1.3


@pytest.mark.parametrize("name", ["mind", "poj"])
def test_no_item_comes_twice_with_a_user_and_targets_are_as_many_as_interactions(name):
    log = shape.synthesized(shape.SHAPES[name], shape.Settings(scale=0.002, zipf=1.3))
    for user in range(log.users):
        items = log.items[log.starts[user] : log.starts[user + 1]]
        assert len(np.unique(items)) == len(items)
        assert log.first_targets[user] < log.starts[user + 1]
    assert log.interactions == round(shape.SHAPES[name].interactions * 0.002)
    assert (len(log.items) > 5 * log.interactions) == (name == "mind"), "MIND's users bring earlier clicks along"


def test_mind_ranks_each_interaction_once_after_earlier_clicks():
    workload = build("mind", {"scale": 0.001})
    assert workload.facts["examples"] == workload.facts["interactions"] == 3760
    batch = workload.batches(0)
    assert batch.items.shape == (16, 55)
    assert int(batch.mask[:, :50].sum(1).min()) > 0
    assert build("mind_body", {"scale": 0.001}).table.lengths.double().mean() > 60, "nearly every body is cut"


def test_a_shape_is_drawn_once_and_then_read(cache, monkeypatch):
    first = build("french").batches(3)
    monkeypatch.setattr(synthesis, "write", None)
    assert torch.equal(build("french").batches(3).items, first.items)
    assert not torch.equal(build("french", seed=1).batches(3).items, first.items)
    assert len(list((cache / "logs").iterdir())) == 1, "the seed orders the log and does not draw another"


def test_popularity_and_lengths_follow_their_laws():
    log = shape.synthesized(shape.SHAPES["spanish"], shape.Settings())
    counts = np.sort(np.bincount(log.items, minlength=log.item_count))[::-1]
    ranks = np.arange(100, 2000)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks]), 1)[0]
    assert -1.15 < slope < -0.85, "Zipf, beyond the head that cannot come twice with a user"
    lengths = np.diff(log.starts)
    assert np.log(lengths).std() == pytest.approx(1.0, abs=0.05)
    assert np.median(lengths) < 0.7 * lengths.mean()


def test_drawing_without_repeats_is_sequential_sampling():
    """Inclusion of each item, against a plain loop over numpy's own sampling without replacement."""
    popularity = laws.weights(6, 1.0)
    drawn = synthesis.distinct_items(np.random.default_rng(0), popularity, np.full(20_000, 3)).reshape(-1, 3)
    rng = np.random.default_rng(1)
    plain = np.asarray([rng.choice(6, 3, replace=False, p=popularity) for _ in range(20_000)])
    found, expected = (np.bincount(items.ravel(), minlength=6) / 20_000 for items in (drawn, plain))
    assert np.abs(found - expected).max() < 0.015
    first = np.bincount(drawn[:, 0], minlength=6) / np.bincount(drawn.ravel(), minlength=6)
    assert np.abs(first - 1 / 3).max() < 0.02, "a user's items are in random order, not the popular first"


def test_users_who_met_almost_everything_are_served_too():
    lengths = np.asarray([6, 1, 5, 6])
    items = synthesis.distinct_items(np.random.default_rng(0), laws.weights(6, 4.0), lengths)
    parts = np.split(items, np.cumsum(lengths)[:-1])
    assert [len(np.unique(part)) for part in parts] == lengths.tolist()


@given(data=st.data(), number=st.integers(1, 300), sigma=st.floats(0.05, 3), least=st.integers(1, 5))
@settings(max_examples=60)
def test_sizes_keep_their_bounds_and_their_sum(data, number, sigma, least):
    most = least + data.draw(st.integers(0, 400))
    total = data.draw(st.integers(number * least, number * most))
    found = laws.sizes(np.random.default_rng(0), number, total, sigma, least, most)
    assert found.sum() == total
    assert found.min() >= least
    assert found.max() <= most


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argument": "spanich"}, "workload \"shape:spanich\" names no shape; did you mean 'spanish'?"),
        ({"argument": None}, "names no shape"),
        ({"task": "ranking"}, "shape:spanish holds right and wrong responses, and the CF module's task is ranking"),
        ({"item_repetition_ratio": 2.0}, "cannot be asked of shape:spanish"),
        ({"batch_size": 10_000}, "batch_size = 10000 is more than the"),
    ],
)
def test_what_a_shape_cannot_be_is_one_clear_sentence(changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build("spanish", **changes)


SHAPE = ("sweep.workload=shape:spanish", "sweep.cf_module=dkt", "sweep.encoder=shape:tiny")


class TestPlainValues:
    """`workload.scale = 0.01` holds for every workload of the sweep that has a scale."""

    def test_it_holds_for_those_that_have_it(self):
        config = load(None, "full", (*SHAPE, "workload.scale=0.25"), "cpu")
        assert config.workload["shape"].scale == 0.25
        assert restore(config.model_dump(mode="json")) == config

    def test_the_last_word_is_the_last_one_written(self, tmp_path):
        path = tmp_path / "bench.toml"
        path.write_text("[workload]\nscale = 0.1\n[workload.shape]\nscale = 0.2\n")
        scales = [
            load(path, "full", (*SHAPE, *changes), "cpu").workload["shape"].scale
            for changes in ((), ("workload.scale=0.3",), ("workload.scale=0.3", "workload.shape.scale=0.4"))
        ]
        assert scales == [0.2, 0.3, 0.4]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                (*SHAPE, "workload.scael=0.1"),
                r'--set workload.scael: .*\(movielens, shape\) has such a setting; .* "scale"',
            ),
            (("workload.scale=0.1", "sweep.workload=synthetic"), r"\(movielens, synthetic\) has such a setting"),
            ((*SHAPE, "workload.scale=3"), "--set workload.scale: workload.shape.scale must be at most 1"),
            ((*SHAPE[:1], "sweep.cf_module=nrms"), "shape:spanish holds right and wrong responses"),
            (("sweep.workload=shape:tovic",), r"did you mean 'toeic'\?"),
            (("sweep.workload=movielens:x",), "movielens takes no argument"),
        ],
    )
    def test_what_is_wrong_is_one_clear_sentence(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            load(None, "full", changes, "cpu")


@pytest.mark.parametrize(("name", "cf_module"), [("spanish", "dkt"), ("mind", "nrms")])
def test_methods_step_on_a_shape_that_a_sweep_names(name, cf_module):
    """From the words of the command line to a loss, as a worker goes."""
    sizes = ("sweep.batch_size=2", "sweep.history_length=5", "sweep.text_length=8", "sweep.method=single_step")
    words = (f"sweep.workload=shape:{name}", f"sweep.cf_module={cf_module}", "sweep.encoder=shape:tiny")
    config = load(None, "full", (*words, *sizes, "workload.scale=0.0005"), "cpu")
    built = build_method(config, plan(config)[0], torch.device("cpu"))
    assert torch.isfinite(built.method.step(built.workload.batches(0)))
    assert built.detail["workload"]["interactions"] == round(shape.SHAPES[name].interactions * 0.0005)
