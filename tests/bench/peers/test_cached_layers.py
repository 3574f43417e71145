"""Frozen lower layers whose states are kept: the model's own encodings and gradients, family by family."""

import copy
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from bench.methods import Unavailable
from bench.peers import cached_layers
from bench.peers._keeping import KeptStates
from bench.peers._split_layers import SplitLayers, layers_of
from bench.peers.cached_layers import CachedLayers
from bench.processes.messages import Job
from bench.worker.measurement import measure
from gram_core.batch import unique_items
from gram_core.encoders import bucketed
from gram_core.engines import eager, fast
from gram_core.evaluation import encode_all
from gram_core.exactness import Float64Throughout, GradientRecorder, parameters, relative_errors
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training
from tests.bench._encoder_folders import FAMILIES
from tests.bench._small_runs import config, item
from tests.bench.verify.test_family_exactness import TRAINED, USUAL, WAYS, prepared
from tests.gram_core import _models as m

TOLERANCE = 1e-10
ONE = CachedLayers.Settings(trained_layers=1)


@pytest.fixture(autouse=True)
def _cheap_calls(monkeypatch):
    """Few texts pass in several runs of like length, as many do where a call costs what it does."""
    monkeypatch.setattr(bucketed.on_processor, "__defaults__", (1,))


def recorded(method, encoder, engine=eager, method_settings=None):
    """The method after a step, and what that left in gradients."""
    training = m.make_training(encoder)
    recorders = GradientRecorder(training.encoder), GradientRecorder(training.cf_module)
    training.optimization = Optimization(*recorders)
    run = engine.build(method, training, method_settings)
    run.step(m.make_batch())
    return run, {f"{part}.{name}": value for part, one in enumerate(recorders) for name, value in one.last.items()}


ENGINES = (eager, fast)
CASES = [
    pytest.param(family, way, engine, id=f"{family}-{way}-{engine.__name__.rpartition('.')[2]}")
    for family, way in TRAINED
    for engine in (ENGINES[(list(FAMILIES).index(family) + (way in WAYS[1::2])) % 2],)
]
"""Half of a usual family's ways by each engine."""


@pytest.mark.parametrize(("family", "way", "engine"), CASES)
def test_trained_layers_learn_what_they_learn_above_frozen_ones(family, way, engine):
    """A mask, a position or a rotary table of other texts, or a gradient that ends too early, would show."""
    with Float64Throughout():
        encoder = copy.deepcopy(prepared(family, way))
        try:
            run, found = recorded(CachedLayers, copy.deepcopy(encoder), engine, ONE)
        except Unavailable as told:
            refused = str(told)
        else:
            refused = None
        if refused is not None:
            assert family not in USUAL, refused
            assert "\n" not in refused
            pytest.skip(refused)
        frozen = {name for name, p in run.training.encoder.encoder.named_parameters() if not p.requires_grad}
        lower, upper = layers_of(encoder.model)
        learning = {id(p): name for name, p in encoder.named_parameters() if p.requires_grad}
        below = [*lower.parameters(), *encoder.model.get_input_embeddings().parameters()]
        assert {learning[id(p)] for p in below if id(p) in learning} <= frozen
        assert not frozen & {learning[id(p)] for p in upper.parameters() if id(p) in learning}
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in frozen)
        _, expected = recorded(SingleStep, encoder)
    assert found.keys() == expected.keys()
    assert any(name.startswith("0.") for name in found)
    if engine is eager or family in USUAL:
        assert run.ran.tier == ("its own, padded" if engine is eager else "its own, packed"), run.ran.why
    assert max(relative_errors(found, expected).values()) <= TOLERANCE


def engine_of(way, monkeypatch):
    """The engine that has texts pass this way: padded as the encoder pads them, to like lengths, or packed."""
    if way == "like lengths":
        monkeypatch.setattr(cached_layers.general, "refuses", lambda *_: "not this time")
    return eager if way in m.PADDINGS else fast


def after_six_steps(engine, method, given, family, trained=None):
    """Parameters before, losses, parameters behind, encodings, and the names of what was trained."""
    with Float64Throughout():
        training = m.with_adamw(m.make_training(m.make_encoder(family, layers=3)))
        if trained is not None:
            for name, parameter in training.encoder.named_parameters():
                parameter.requires_grad_(name in trained)
        start = parameters({"encoder": training.encoder})
        run = engine.build(method, training, given)
        trained = frozenset(name for name, p in training.encoder.named_parameters() if p.requires_grad)
        losses = [float(run.step(m.make_batch(seed=step, items=10))) for step in range(6)]
        end = parameters({"encoder": training.encoder})
        return start, losses, end, encode_all(run.training, torch.arange(10)), trained


plain_after_six_steps = cache(after_six_steps)


@pytest.mark.parametrize("way", ["longest", "like lengths", "packed"])
@pytest.mark.parametrize("family", m.FAMILIES)
def test_after_six_steps_it_is_the_model_with_frozen_layers(family, way, monkeypatch):
    """Items are met again and nothing below learns, so nothing that is kept grows old; the whole model, evaluated, is
    what was trained."""
    start, found, end, encoded, trained = after_six_steps(engine_of(way, monkeypatch), CachedLayers, ONE, family)
    _, expected, plain, whole, _ = plain_after_six_steps(eager, SingleStep, None, family, trained)
    assert found == pytest.approx(expected, rel=1e-9)
    assert max(relative_errors(end, plain).values()) <= 1e-9
    torch.testing.assert_close(encoded, whole, rtol=1e-9, atol=1e-12)
    moved = {name.removeprefix("encoder.") for name, value in end.items() if not torch.equal(value, start[name])}
    assert moved
    assert moved <= trained


@pytest.mark.parametrize("way", ["max_length", "longest", "like lengths", "packed"])
def test_each_item_passes_the_lower_layers_once_and_the_upper_ones_whenever_it_is_met(way, monkeypatch):
    """What a report derives from counts is what ran; `encode_batch_tokens` bounds the lower layers' chunks."""
    engine = engine_of(way, monkeypatch)
    encoder = m.make_encoder(padding=way if way in m.PADDINGS else "max_length")
    training = m.with_adamw(m.make_training(encoder))
    run = engine.build(CachedLayers, training, CachedLayers.Settings(trained_layers=1, encode_batch_tokens=24))
    lower, upper = [], []
    for layer, seen in zip(layers_of(encoder.model), (lower, upper), strict=True):
        part = next(part for part in layer.modules() if isinstance(part, torch.nn.Linear))
        part.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].shape[:2].numel()))
    batches = [m.make_batch(seed=step) for step in range(3)]
    for batch in batches:
        run.step(batch)

    def computed(items):
        return int(run.training.encoder.computed_tokens(training.table.lengths[items]).sum())

    passes = run.encoded_items(batches)
    touched = torch.unique(torch.cat([unique_items(batch).items for batch in batches]))
    real = [int(training.table.lengths[items].sum()) for items in (touched, torch.cat(passes))]
    assert len(touched) < len(training.table)
    assert max(lower) <= 24
    assert sum(upper) == sum(map(computed, passes))
    if way == "packed":
        assert [sum(lower), sum(upper)] == real
    elif way == "max_length":
        assert [sum(lower), sum(upper)] == [m.TEXT_LENGTH * len(items) for items in (touched, torch.cat(passes))]
    else:
        assert real[0] <= sum(lower) <= m.TEXT_LENGTH * len(touched)
        assert real[1] <= sum(upper) <= m.TEXT_LENGTH * len(torch.cat(passes))
    if way == "like lengths":
        assert (run.ran.tier, run.ran.why) == ("its own, padded", "not this time")
        assert run.handicaps[-1].sentence == "its layers run on padded texts: not this time"


@pytest.mark.parametrize("store", ["device", "host"])
def test_states_are_kept_in_the_compute_dtype_and_counted(store):
    """Tokens of items touched, times width, times two bytes, with some room to grow."""
    encoder = m.make_encoder("bert", layers=3).float()
    training = m.make_training(encoder, amp_dtype=torch.bfloat16)
    training.cf_module.float()
    run = CachedLayers(training, CachedLayers.Settings(trained_layers=2, store=store))
    assert run.kept_bytes == 0
    batch = m.make_batch()
    run.step(batch)
    tokens = int(training.table.lengths[unique_items(batch).items].sum())
    assert 2 * tokens * 32 <= run.kept_bytes <= 1.5 * 2 * tokens * 32
    fresh = m.make_encoder("bert", layers=3).float()
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    for name, parameter in fresh.named_parameters():
        parameter.requires_grad_(name not in frozen)
    exact = m.make_training(fresh)
    exact.cf_module.float()
    expected = m.step_gradients("single_step", exact, batch)
    optimizers = {"encoder": training.optimization.encoder_optimizer, "cf": training.optimization.cf_optimizer}
    found = {f"{part}.{name}": value for part, one in optimizers.items() for name, value in one.last.items()}
    assert found.keys() == expected.keys()
    ours, exact_ones = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
    assert 1e-5 < float((ours - exact_ones).norm() / exact_ones.norm()) < 0.05


def test_it_goes_on_from_a_state():
    """A restored method computes nothing again, and reads what it wrote."""
    first, second = (CachedLayers(m.with_adamw(m.make_training()), ONE) for _ in range(2))
    second.restore(first.state())
    batches = [m.make_batch(seed=step) for step in range(3)]
    for batch in batches:
        first.step(batch)
    second.restore(first.state())
    assert all(torch.equal(*pair) for pair in zip(first.state().values(), second.state().values(), strict=True))
    items = unique_items(batches[0]).items
    assert torch.equal(second._kept.read(items), first._kept.read(items))
    assert second._kept.holds(items).all()


def test_lower_layers_drop_nothing():
    """Their states are kept, so that what they dropped once would be dropped for good."""
    training = m.with_adamw(m.make_training(m.make_encoder(dropout=0.5)))
    run = CachedLayers(training, ONE)
    batch = m.make_batch()
    run.step(batch)
    items = unique_items(batch).items
    without = m.make_training(m.make_encoder(dropout=0.0))
    split = SplitLayers(without.encoder, 1, without.table.texts(items))
    with torch.no_grad(), split.below_only() as found:
        without.encoder.encode(without.table.texts(items), padded_to=None)
    mask = torch.arange(found[-1].shape[1]) < without.table.lengths[items][:, None]
    torch.testing.assert_close(run._kept.read(items), found[-1][mask])


@pytest.mark.parametrize(
    ("encoder", "trained", "expected"),
    [
        (dict(layers=2), 2, "cannot run this bert, which has 2 layers, of which 2 on top leave none below"),
        (dict(family="distilbert"), 5, "which has 2 layers, of which 5 on top leave none below"),
    ],
)
def test_a_model_without_layers_to_keep_is_refused_in_one_sentence(encoder, trained, expected):
    with pytest.raises(Unavailable, match=expected):
        CachedLayers(m.make_training(m.make_encoder(**encoder)), CachedLayers.Settings(trained_layers=trained))


def test_what_differs_when_it_is_cut_is_refused_and_so_is_what_is_no_model():
    """T5's lowest layer hands positions to the others beside the states."""
    with pytest.raises(Unavailable, match="cached_layers does not leave what the encoder, a t5, leaves: its encodings"):
        CachedLayers(m.make_training(copy.deepcopy(prepared("t5", "whole"))), ONE)
    spy = m.SpyEncoder.fresh()
    training = Training(m.make_table(), spy, m.make_cf_module("nrms", spy.width), Optimization(None, None))
    with pytest.raises(Unavailable, match="cached_layers needs a Hugging Face model"):
        CachedLayers(training)


def test_a_model_is_whole_again_however_a_call_ends():
    encoder = m.make_encoder(layers=3)
    texts = m.make_table().texts(torch.arange(4))
    split = SplitLayers(encoder, 1, texts)
    layers = layers_of(encoder.model)
    own = layers[0].forward
    layers[0].forward = own
    states = torch.zeros(4, int(texts.lengths.max()), 32, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="within"), split.reading(states):
        raise RuntimeError("within")
    assert layers[0].forward is own
    assert all("forward" not in vars(layer) for layer in layers[1:])


@pytest.mark.parametrize("values", [dict(trained_layers=0), dict(store="disk")])
def test_settings_refuse_what_means_nothing(values):
    with pytest.raises(ValueError, match="must be"):
        CachedLayers.Settings(**values)


@settings(max_examples=50)
@given(st.data())
def test_what_is_read_is_what_was_written(data):
    """In any order, with repeats, whatever has been written since."""
    table = m.make_table()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    kept = KeptStates(table, torch.float64, torch.device("cpu"))
    order = torch.randperm(m.ITEMS, generator=generator)
    written = {}
    for part in order.split(data.draw(st.integers(1, m.ITEMS))):
        assert not kept.holds(part).any()
        lengths = table.lengths[part].tolist()
        states = torch.rand(sum(lengths), 3, generator=generator, dtype=torch.float64)
        kept.write(part, states)
        written |= dict(zip(part.tolist(), states.split(lengths), strict=True))
        asked = data.draw(st.lists(st.sampled_from(sorted(written)), min_size=1))
        assert torch.equal(kept.read(torch.tensor(asked)), torch.cat([written[item] for item in asked]))
    assert kept.holds(order).all()
    assert kept.nbytes == len(table.tokens) * 3 * 8


def test_a_run_skips_it_with_the_reason_where_it_cannot_run():
    record = measure(Job(config(), item("cached_layers")), lambda _: None)
    assert record["outcome"] == "skipped"
    assert record["reason"].endswith("which has 2 layers, of which 2 on top leave none below")
