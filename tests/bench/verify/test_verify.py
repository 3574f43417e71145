"""Verification passes what is exact and names what is not, on the user's own configuration."""

import dataclasses
import io

import pytest
import torch
from rich.console import Console

from bench import registry
from bench.configuration.config import Config, ModelSettings, RunSettings, Sweep
from bench.encoders import _base as _encoders
from bench.errors import UsageError
from bench.verify.case import LOOKED_AT, cut, with_a_repeat, with_histories
from bench.verify.report import STEPS, VerifyReport, verify
from bench.workloads import mind
from gram_core.batch import Batch, unique_items
from tests.bench._logs import Words

WRONG = "tests.bench.wrong_methods"


def config(methods=("e2e", "single_step"), run=None, model=None, method=None, **sweep):
    """The tiny shape on synthetic batches, with the wrong methods plugged in."""
    axes = {
        "workload": ["synthetic"],
        "encoder": ["shape:tiny"],
        "batch_size": [6],
        "history_length": [7],
        "text_length": [8],
        "item_repetition_ratio": [2.0],
        "method": list(methods),
    }
    return Config(
        run=RunSettings(**{"device": "cpu", "plugins": [WRONG], **(run or {})}),
        model=ModelSettings(**(model or {})),
        sweep=Sweep(**{**axes, **sweep}),
        method=method or {},
    )


def checks_of(report, method):
    return {row.check: row for row in report.rows if row.method.startswith(method)}


def printed(report):
    console = Console(file=io.StringIO(), width=200)
    report.print_table(console)
    return console.file.getvalue()


def test_the_exact_methods_of_the_core_pass():
    """Each check is there for each method, guards included, and every number is one."""
    report = verify(config(["e2e", "e2e_unique", "single_step", "multi_step"]), torch.device("cpu"))
    assert report.passed
    assert set(checks_of(report, "e2e")) >= {"gradients exist", "another text changes them"}
    after = f"parameters, {STEPS} adamw steps"
    both = {"gradients", "gradients, clipped", after}
    assert set(checks_of(report, "e2e_unique")) == both
    assert set(checks_of(report, "single_step")) == {*both, "gradients, recomputed"}
    assert set(checks_of(report, "multi_step N=1")) == {"gradients, as single_step's", after}
    for row in report.rows:
        assert row.passed
        assert (row.error >= row.tolerance) if row.bound == "at least" else (0 <= row.error <= row.tolerance)
        assert "4 users, 48 item slots, 24 unique items" in row.case
    assert "all 11 checks hold in float64" in printed(report)


def test_every_exact_peer_passes_and_one_whose_library_is_missing_is_said_to_be_skipped():
    """Exactness is a label on a table: this is what stands behind it, on both engines."""
    peers = ["gradient_cache", "gradient_cache_unique", "activation_checkpointing", "pseudo_target_regression"]
    plugged = {"plugins": [WRONG, "tests.bench.faulty_methods"]}
    report = verify(
        config(["e2e", *peers, "sentence_transformers", "speedyfeed", "needs_a_library"], run=plugged), "cpu"
    )
    assert report.passed
    for peer in peers:
        assert len(checks_of(report, peer)) >= 2, peer
    assert {"gradients", "gradients, recomputed"} <= set(checks_of(report, "gradient_cache_unique"))
    assert set(checks_of(report, "pseudo_target_regression N=1")) >= {"gradients, as single_step's"}
    assert not checks_of(report, "speedyfeed")
    assert "needs_a_library (eager): no-such-library is not installed: pip install no-such-library" in report.skipped
    assert "pip install no-such-library" in printed(report)
    said = " ".join(report.skipped)
    assert bool(checks_of(report, "sentence_transformers")) != ("sentence_transformers" in said)


@pytest.mark.parametrize("pooling", ["cls", "attention"])
@pytest.mark.parametrize("padding", ["longest"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_runs_what_the_configuration_says(pooling, padding, optimizer):
    """Also where dropout is on and the precision is low: verification puts both aside."""
    run = {"padding": padding, "optimizer": optimizer, "dropout": "shared", "max_grad_norm": 0.1, "learning_rate": 1e-2}
    own = config(run=run, model={"pooling": pooling}, precision=["bf16"], method={"single_step": {"chunk_tokens": 24}})
    report = verify(own, "cpu")
    assert report.passed
    assert f"parameters, {STEPS} {optimizer} steps" in checks_of(report, "single_step")


@pytest.mark.parametrize("cf_module", registry.names("gram_core.cf_modules"))
def test_every_cf_module_can_be_verified(cf_module):
    assert verify(config(cf_module=[cf_module]), "cpu").passed


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [
        ("forgets_repeats", {"gradients", "gradients, clipped", "gradients, recomputed", "parameters"}),
        ("drops_the_half", {"gradients", "gradients, clipped", "gradients, recomputed", "parameters"}),
        ("clips_apart", {"gradients, clipped"}),
        ("freezes_the_encoder", {"gradients", "gradients, clipped", "gradients, recomputed", "parameters"}),
        ("ages", {"parameters"}),
    ],
)
def test_a_wrong_method_fails_and_is_named(wrong, failing):
    """Each check has a mistake that it finds; the method beside it still passes."""
    report = verify(config(["e2e", "single_step", wrong]), "cpu")
    assert not report.passed
    assert all(row.passed for row in checks_of(report, "single_step").values())
    rows = checks_of(report, wrong)
    assert len(rows) == 4
    failed = {check for check, row in rows.items() if not row.passed}
    assert {check.removesuffix(f", {STEPS} adamw steps") for check in failed} == failing
    assert all(f"{wrong} (eager) failed: {check}" in printed(report) for check in failed)


def test_twice_the_encoders_gradient_shows_as_twice():
    report = verify(config(["e2e", "drops_the_half"]), "cpu")
    assert checks_of(report, "drops_the_half")["gradients"].error == pytest.approx(1)


def test_gradients_on_one_side_only_are_named():
    report = verify(config(["e2e", "freezes_the_encoder"]), "cpu")
    row = checks_of(report, "freezes_the_encoder")["gradients"]
    assert row.error == float("inf")
    assert "only one side has encoder." in row.note


def test_a_method_that_raises_fails_with_its_message():
    """The other methods are verified all the same."""
    report = verify(config(["e2e", "raises", "single_step"], run={"plugins": ["tests.bench.faulty_methods"]}), "cpu")
    [row] = checks_of(report, "raises").values()
    assert not row.passed
    assert row.note == "LookupError: the item"
    assert all(row.passed for row in checks_of(report, "single_step").values())


def test_a_method_that_refuses_the_encoder_is_skipped_with_its_reason():
    """It has nothing that could be wrong."""
    report = verify(
        config(["e2e", "refuses_the_encoder", "single_step"], run={"plugins": ["tests.bench.faulty_methods"]}), "cpu"
    )
    assert report.passed
    assert not checks_of(report, "refuses_the_encoder")
    [said] = report.skipped
    assert said.endswith("refuses_the_encoder (eager): refuses_the_encoder cannot run this bert, which is too small")


def test_every_engine_of_the_sweep_is_verified():
    engines = list(registry.names("gram_core.engines"))
    report = verify(config(engine=engines), "cpu")
    assert report.passed
    for engine in engines:
        assert checks_of(report, f"single_step ({engine})")
        assert bool(checks_of(report, f"e2e ({engine})")) == (engine != "eager")


def test_nothing_to_verify_is_no_pass():
    with pytest.raises(UsageError, match="no exact method besides e2e; add single_step"):
        verify(config(["e2e"]), "cpu")
    assert not VerifyReport(()).passed


def test_distinct_cases_are_verified_once_and_the_largest_left_out():
    """Batch sizes, ratios and precisions make no case of their own; what was left out is said."""
    swept = config(
        text_length=[8, 6, 10],
        history_length=[5, 7],
        batch_size=[4, 6],
        item_repetition_ratio=[1, 2],
        workload=["synthetic"],
    )
    begun = []
    report = verify(swept, "cpu", users=2, say=begun.append)
    assert begun == [
        f"synthetic nrms shape:tiny history={history} text={text}"
        for history, text in ((5, 6), (5, 8), (7, 6), (5, 10))
    ]
    left_out = "synthetic nrms shape:tiny history=7 text=8", "synthetic nrms shape:tiny history=7 text=10"
    assert report.left_out == left_out
    assert f"not verified, for time: {left_out[0]}" in printed(report)
    assert all("2 users" in row.case for row in report.rows)


def test_every_cf_module_of_a_sweep_is_a_case_of_its_own():
    begun = []
    assert verify(config(cf_module=["nrms", "dkt", "sakt"]), "cpu", users=2, say=begun.append).passed
    assert [line.split()[1] for line in begun] == ["nrms", "dkt", "sakt"]


def test_a_ratio_that_few_users_cannot_have_gives_way():
    """16 needs 16 users' slots; of those that the sweep has, the highest that is possible is taken."""
    report = verify(config(batch_size=[64], item_repetition_ratio=[4, 100]), "cpu")
    assert report.passed
    assert "4 users, 48 item slots, 12 unique items" in report.rows[0].case


def batch(items, candidates=2, mask=None):
    items = torch.tensor(items)
    mask = torch.ones_like(items, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Batch(items, mask, torch.zeros(len(items), dtype=torch.int64), items.shape[1] - candidates)


def test_cutting_keeps_candidates_and_the_fullest_history_columns():
    whole = batch(
        [[1, 2, 3, 4, 90, 91], [5, 6, 7, 8, 92, 93], [0] * 6], mask=[[False, True, True, False, True, True]] * 3
    )
    small = cut(whole, None, 8)
    assert small.items.tolist() == [[2, 3, 90, 91], [6, 7, 92, 93]]
    assert small.mask.all()
    assert small.history_length == 2
    assert len(small.targets) == 2
    assert cut(whole, 1, None).items.tolist() == [[1, 2, 3, 4, 90, 91]]
    response = dataclasses.replace(batch([[1, 2, 3], [4, 5, 6]], candidates=0), targets=torch.eye(2, 3))
    assert cut(response, None, 4).targets.tolist() == [[1, 0], [0, 1]]


def test_users_without_a_history_are_passed_over():
    """Their loss moves nothing: a batch of them would call exact methods wrong, for want of a gradient."""
    silent = torch.tensor([[False, False, True, True], [True, False, True, True], [False, False, True, True]])
    ranking = Batch(torch.arange(12).reshape(3, 4), silent, torch.tensor([0, 1, 0]), 2)
    kept = cut(ranking, 1, None)
    assert (kept.items.tolist(), kept.targets.tolist()) == ([[4, 5, 6, 7]], [1])
    nobody = Batch(ranking.items, silent & torch.tensor([False, False, True, True]), ranking.targets, 2)
    assert with_histories(lambda number: ranking if number % 3 else nobody, 4) == ([ranking] * 4, True)
    assert with_histories(lambda _: nobody, 2) == ([nobody] * 2, False)
    one_response = Batch(torch.tensor([[5, 6]]), torch.tensor([[False, True]]), torch.zeros(1, 2), 2)
    assert with_histories(lambda _: one_response, 2) == ([one_response] * 2, False)


def test_a_batch_without_repeats_gets_one():
    """Otherwise a method that gets repeats wrong would be exact on it."""
    made = with_a_repeat(batch([[1, 2, 90, 91], [3, 4, 92, 93]]))
    assert made.items.tolist() == [[1, 2, 90, 91], [3, 1, 92, 93]]
    assert len(unique_items(made).items) < made.item_slots
    repeated = batch([[1, 1, 90, 91]])
    assert with_a_repeat(repeated) is repeated


def test_several_processes_leave_what_one_leaves_on_their_joined_batch():
    """And a method that is exact alone, but forgets the others' users, is named; the rest still pass."""
    methods = ["e2e", "single_step", "multi_step", "forgets_the_others"]
    report = verify(config(methods, world_size=[2]), torch.device("cpu"))
    together = [row for row in report.rows if "2 processes" in row.case]
    assert {row.method.partition(" ")[0] for row in together} == set(methods)
    assert "by process 3+1" in together[0].case
    assert {row.method.partition(" ")[0] for row in report.rows if not row.passed} == {"forgets_the_others"}
    for row in together:
        assert row.passed == (row.error <= row.tolerance) == ("forgets" not in row.method), row
    assert not report.passed


def test_processes_that_cannot_be_built_are_no_pass():
    """A comparison that never took place must not look like one that held."""
    report = verify(config(world_size=[2], method={"single_step": {"memory_budget": 0.5, "chunk_tokens": 8}}), "cpu")
    assert not report.passed
    assert any("memory_budget" in row.note for row in report.rows if "2 processes" in row.case)


def impressions(tmp_path, histories):
    """A MIND folder with an impression for each of these histories."""
    titles = [f"the {name} opens at {name} night" for name in ("river", "harbour", "bread", "salt", "bay", "wind")]
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "news.tsv").write_text(
        "".join(f"N{n}\tnews\tlocal\t{title}\t\thttps://x\t[]\t[]\n" for n, title in enumerate(titles))
    )
    (folder / "behaviors.tsv").write_text(
        "".join(
            f"{n}\tU{n}\t11/11/2019 9:05:58 AM\t{history}\tN{n % 6}-1 N{(n + 1) % 6}-0 N{(n + 2) % 6}-0\n"
            for n, history in enumerate(histories)
        )
    )
    return folder


def verified_news(tmp_path, monkeypatch, histories):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_encoders, "load", lambda _, asked: _with_words(_load("shape:tiny", asked)))
    folder = impressions(tmp_path, histories)
    axes = {"workload": ["mind"], "batch_size": [4], "history_length": [4], "text_length": [8]}
    chosen = config(**axes, model={"candidates": 3})
    chosen = chosen.model_copy(update={"workload": {"mind": mind.Settings(train=str(folder))}})
    return verify(chosen, "cpu")


def _with_words(loaded):
    return dataclasses.replace(loaded, tokenizer=Words())


_load = _encoders.load


class TestReadersWithoutHistory:
    """Where nobody in a batch has read anything there is no gradient, and nothing that could be wrong."""

    def test_a_batch_in_which_somebody_has_one_is_verified(self, tmp_path, monkeypatch):
        report = verified_news(tmp_path, monkeypatch, 60 * [""] + ["N0 N1", "N2 N3 N4"])
        assert report.passed
        assert checks_of(report, "e2e")["gradients exist"].error > 0

    def test_a_log_without_any_is_said_to_have_no_gradient(self, tmp_path, monkeypatch):
        with pytest.raises(UsageError, match=r"mind nrms .*: nobody in the first 1,000 batches has a") as raised:
            verified_news(tmp_path, monkeypatch, 12 * [""])
        assert raised.value.exit_code == 2

    def test_batches_with_a_history_come_first_and_the_search_ends(self):
        asked = []

        def batches(step):
            asked.append(step)
            return silent if step % 7 else telling

        telling, silent = batch([[1, 2, 90, 91]]), batch([[0, 0, 90, 91]], mask=[[False, False, True, True]])
        assert with_histories(batches, 3) == ([telling] * 3, True)
        assert asked[-1] == 14
        assert with_histories(lambda _: silent, 3) == ([silent] * 3, False)
        once = iter([silent, telling, *[silent] * LOOKED_AT])
        assert with_histories(lambda _: next(once), 3) == ([telling, silent, silent], True)
