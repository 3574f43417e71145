"""Peers whose CF steps are captured train as their eager selves, and tell of their graphs."""

import copy

import pytest
import torch

from bench.build.assembly import Built, set_dropout
from bench.peers.frozen import Frozen
from bench.peers.gradient_cache import GradientCache
from bench.peers.ids_only import IdsOnly
from bench.peers.pseudo_target_regression import PseudoTargetRegression
from bench.results.schema import Inputs
from bench.training import checkpoint
from gram_core.encoders.packed import PackedEncoder
from gram_core.engines import fast
from gram_core.engines._captured_cf import CapturingTraining
from gram_core.exactness import parameters, relative_errors
from gram_core.training import Optimization, Training
from tests.gram_core import _models as m
from tests.gram_core.test_captured_chunks import overwriting  # noqa: F401 - a fixture
from tests.gram_core.test_fast_engine_gradients import GPU, ITEMS, _float32_products  # noqa: F401 - all tests' fixture
from tests.gram_core.test_fast_engine_gradients import training as small_training

BOUNDS = {"frozen": Frozen, "ids_only": IdsOnly}
PEERS = BOUNDS | {"pseudo_target_regression": PseudoTargetRegression}


def prepared(cf_module="nrms", device="cpu", dtype=torch.float64, max_grad_norm=None):
    """AdamW whose epsilon is far above the rounding of gradients, at rates that fall from step to step."""
    tiny = small_training(device, 12, None)
    parts = (tiny.encoder.to(dtype), m.make_cf_module(cf_module, tiny.encoder.width).to(device, dtype))
    set_dropout(parts[1], "off")
    optimizers = [torch.optim.AdamW(part.parameters(), lr=1e-2, eps=1e-3, fused=True) for part in parts]
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: 1 / (1 + step)) for one in optimizers]
    return Training(tiny.table, *parts, Optimization(*optimizers, *schedules, max_grad_norm=max_grad_norm))


def eagerly(method, training):
    torch.manual_seed(6)
    return method(training)


def captured(method, training):
    """As a GPU builds it."""
    torch.manual_seed(6)
    return fast.build_packed(method, training, None, PackedEncoder(training.encoder))


def changing_batches(task, dtype=torch.float64):
    """With padding slots; of fewer users and items, all items unique, one item for all; the first sizes again."""
    history, candidates = torch.arange(10).view(2, 5), torch.arange(10, 16).view(2, 3)
    shown, clicked = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    full = [m.make_batch(task, seed=seed, items=ITEMS) for seed in range(3)]
    others = [
        m.make_batch(task, users=2, seed=8, items=5),
        m.batch_of(task, history, torch.ones(2, 5, dtype=torch.bool), candidates, shown, clicked),
        m.make_batch(task, items=1),
    ]
    found = [full[0], *others, *full[1:], full[0], *others]
    for batch in found:
        if batch.targets.is_floating_point():
            object.__setattr__(batch, "targets", batch.targets.to(dtype))
    return found


def moved(run):
    """What trains."""
    rows = {"rows": run.training.encoder} if run.name == "ids_only" else {}
    return parameters({"cf": run.training.cf_module} | rows)


def stepped(run, batches):
    """Losses are read at the end only: what a step returns must outlive the next."""
    losses = [run.step(batch) for batch in batches]
    return moved(run), torch.stack(losses)


def assert_alike(found, expected, tolerance):
    (ends, losses), (expected_ends, expected_losses) = found, expected
    assert max(relative_errors(ends, expected_ends).values()) <= tolerance
    torch.testing.assert_close(losses, expected_losses, rtol=tolerance, atol=0)


@pytest.mark.usefixtures("overwriting")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("cf_module", m.CF_MODULES)
@pytest.mark.parametrize(("name", "max_grad_norm"), [*((name, None) for name in PEERS), ("frozen", 0.05)])
def test_they_train_as_eagerly(name, max_grad_norm, cf_module, dtype):
    """A stale buffer, a row too many, a lost schedule or a gradient read too late would leave other parameters."""
    batches = changing_batches(m.CF_MODULES[cf_module].task, dtype)
    runs = [
        build(PEERS[name], prepared(cf_module, dtype=dtype, max_grad_norm=max_grad_norm))
        for build in (captured, eagerly)
    ]
    start = moved(runs[0])
    found, expected = (stepped(run, batches) for run in runs)
    assert_alike(found, expected, 1e-10 if dtype is torch.float64 else 1e-4)
    assert max(relative_errors(found[0], start).values()) > 1e-2, "nothing moved, so nothing was shown"
    told = runs[0].training.captured
    assert told.capture_counts() == {"replayed": 0, "uncaptured": len(batches)}
    assert told.made_ready() == 0, "nothing is captured here, so nothing becomes ready"


def test_without_clipping_it_is_the_joint_steps_move():
    """Two moves, one after the other, of gradients that were taken before either."""
    batches = changing_batches("ranking")
    apart, jointly = (eagerly(IdsOnly, prepared(max_grad_norm=limit)) for limit in (None, 1e9))
    ends = [stepped(run, batches) for run in (apart, jointly)]
    assert all(torch.equal(*values) for values in zip(ends[0][0].values(), ends[1][0].values(), strict=True))
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_clipped_norm_is_that_of_rows_and_cf_module_together():
    """Stepping them apart, each would be clipped on its own."""
    batches = changing_batches("ranking")
    found, expected, free = (
        build(IdsOnly, prepared(max_grad_norm=limit))
        for build, limit in ((captured, 0.05), (eagerly, 0.05), (eagerly, None))
    )
    norms = []
    clip = Optimization.clip
    found.training.optimization.clip = lambda parts, limit: (
        norms.append(len(parts)) or clip(found.training.optimization, parts, limit)
    )
    ends = [stepped(run, batches) for run in (found, expected, free)]
    assert_alike(ends[0], ends[1], 1e-10)
    assert max(relative_errors(ends[2][0], ends[1][0]).values()) > 1e-3, "nothing was clipped, so nothing was shown"
    assert set(norms) == {1 + len(list(found.training.cf_module.parameters()))}
    assert found.training.captured is None


@pytest.mark.parametrize("name", BOUNDS)
def test_steps_are_undone_and_a_checkpoint_is_gone_on_from(name):
    """Captured steps read and write where optimizers and weights lie: going back must not move them unseen."""
    batches = changing_batches("ranking")
    run = captured(BOUNDS[name], prepared())
    stepped(run, batches[:3])
    kept = checkpoint.kept(run, run.training)
    expected = stepped(run, batches[3:])
    checkpoint.rewind(kept, run, run.training)
    assert_alike(stepped(run, batches[3:]), expected, 0.0)
    checkpoint.restore(copy.deepcopy(kept), run, run.training)  # on the host, what is loaded is what then moves
    assert_alike(stepped(run, batches[3:]), expected, 0.0)
    fresh = captured(BOUNDS[name], prepared())
    checkpoint.restore(kept, fresh, fresh.training)
    assert_alike(stepped(fresh, batches[3:]), expected, 0.0)


@pytest.mark.parametrize("name", PEERS)
def test_a_run_is_told_of_their_graphs(name):
    """Else windows in which a graph was made would be kept, and what the device waited would go untold."""
    given = prepared()
    run = captured(PEERS[name], given)
    built = Built(None, given, run, run.exactness, {}, Inputs(), "")
    assert built.graphs is None, "no CF step was taken"
    run.step(m.make_batch(items=ITEMS))
    assert built.graphs.capture_counts()["uncaptured"] == 1
    assert len(built.graphs.functions) == 1
    assert Built(None, given, eagerly(PEERS[name], given), run.exactness, {}, Inputs(), "").graphs is None


def test_who_takes_no_cf_step_finds_its_optimizers_as_they_were():
    """Nothing is prepared for steps that never come."""
    given = prepared()
    options = [copy.deepcopy(one.param_groups[0]["capturable"]) for one in optimizers_of(given)]
    run = captured(GradientCache, given)
    run.step(m.make_batch(items=ITEMS))
    assert isinstance(run.training, CapturingTraining)
    assert run.training.captured is None
    assert Built(None, given, run, run.exactness, {}, Inputs(), "").graphs is None
    assert [one.param_groups[0]["capturable"] for one in optimizers_of(given)] == options
    assert not any(one._optimizer_load_state_dict_post_hooks for one in optimizers_of(given))


def optimizers_of(training):
    return training.optimization.encoder_optimizer, training.optimization.cf_optimizer


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("cf_module", m.CF_MODULES)
@pytest.mark.parametrize("name", PEERS)
def test_graphs_are_replayed(name, cf_module, device, monkeypatch):
    """Where there are any: with a state loaded between, which drops those before, and idle time that is read."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    batches = changing_batches(m.CF_MODULES[cf_module].task, torch.float32)
    runs = [build(PEERS[name], prepared(cf_module, device, torch.float32)) for build in (captured, captured, eagerly)]
    start = moved(runs[0])
    times = 1 if device == "cpu" else 3  # on a processor every step is as the first
    before = [stepped(run, batches * times) for run in runs]
    told = runs[0].training.captured
    made, idle_s = told.made_ready(), told.take_idle_s()
    for run in runs[1:]:
        optimizer = run.training.optimization.cf_optimizer
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    after = [stepped(run, batches * times) for run in runs]
    for found in (before, after):
        assert_alike(found[0], found[2], 1e-3)
        assert_alike(found[1], found[2], 1e-3)
    assert max(relative_errors(before[0][0], start).values()) > 1e-2, "nothing moved, so nothing was shown"
    counts = told.capture_counts()
    assert sum(counts.values()) == 2 * times * len(batches)
    if device == "cpu":
        assert (made, idle_s, counts["replayed"]) == (0, None, 0)
        return
    assert counts["replayed"] > 3 * counts["uncaptured"]
    assert told.made_ready() == made, "sizes met before were made ready again"
    assert runs[1].training.captured.made_ready() > made
    assert idle_s == 0.0, "nothing is marked before the first reading"
    assert told.take_idle_s() > 0.0
    given = [run.training.optimization.cf_optimizer.param_groups[0] for run in runs]
    assert [group["capturable"] for group in given] == [True, True, False]
