"""The README's example is a program that trains."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from bench.peers.speedyfeed import SpeedyFeed
from bench.results.epochs import epochs
from bench.results.store import load
from bench.results.summary import frames
from bench.results.training import load as load_training
from bench.results.training_summary import frames as training_frames
from reports.paper import DATA_SETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_training_loop_runs_and_moves_every_part() -> None:
    """Fifteen lines that a reader copies must work as they stand."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 15
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    setup, loop = code.split("for _ in range(3):")
    exec(setup, found)
    before = [p.detach().clone() for part in ("encoder", "cf_module") for p in found[part].parameters()]
    exec("for _ in range(3):" + loop, found)
    after = [p for part in ("encoder", "cf_module") for p in found[part].parameters()]
    assert torch.isfinite(found["loss"])
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert moved > len(after) // 2


def test_every_file_it_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_figures_are_those_of_the_run_in_the_gallery() -> None:
    """Every number of the H100 table can be read off the raw measurements that lie beside it."""
    run = load(ROOT / "reports" / "gallery" / "h100-full")
    summary = frames(run.records).summary
    lines = summary[
        (summary["workload"] == "synthetic") & (summary["batch_size"] == 32) & (summary["text_length"] == 128)
    ]
    table = README[README.index("| repetition ratio | e2e ms/step") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 5
    for row in table:
        ratio, e2e_ms, *told = (cell.strip() for cell in row.strip("|").split("|"))
        case = lines[lines["asked_repetition_ratio"] == float(ratio)].set_index("method")
        assert f"{1e3 * case.loc['e2e', 'median_s']:.0f}" == e2e_ms
        speed_ups = [f"{case.loc[method, 'speed_up']:.2f}x" for method in ("e2e_unique", "single_step", "multi_step")]
        peaks = [
            f"{case.loc[method, 'memory_bytes'] / 2**30:.1f} GiB" for method in ("e2e", "single_step", "multi_step")
        ]
        assert told == speed_ups + peaks
    titles = summary[(summary["batch_size"] == 32) & (summary["text_length"] == 32)]
    most = titles[(titles["asked_repetition_ratio"] == 16) & (titles["method"] == "single_step")]["speed_up"].item()
    assert f"a repetition of 16 buys {most:.1f}x and not 16x" in " ".join(README.split())
    movielens = summary[summary["workload"] == "movielens"].set_index("method")
    words = " ".join(README.split())
    for method, told in (
        ("single_step", "single_step {:.2f}x in {:.0f} %"),
        ("multi_step", "multi_step {:.2f}x in {:.0f} %"),
    ):
        line = movielens.loc[method]
        assert told.format(line["speed_up"], 100 * line["memory_ratio"]) in words


def test_its_table_of_peers_is_that_of_the_run_in_the_gallery() -> None:
    summary = frames(load(ROOT / "reports" / "gallery" / "h100-peers").records).summary
    synthetic = summary[summary["workload"] == "synthetic"].sort_values("asked_repetition_ratio")
    assert list(synthetic["asked_repetition_ratio"].unique()) == [1.0, 2.0, 4.0, 16.0, 64.0]
    table = README[README.index("| speed against `e2e`") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 13
    for row in table:
        name, gradient, *told = (cell.strip() for cell in row.strip("|").split("|"))
        method = name.split("`")[1]
        lines = synthetic[synthetic["method"] == method]
        assert set(lines["exactness"]) == {gradient}
        (movielens,) = summary[(summary["workload"] == "movielens") & (summary["method"] == method)]["speed_up"]
        (memory,) = lines[lines["asked_repetition_ratio"] == 4]["memory_ratio"]
        assert told == [*(f"{x:.2f}x" for x in (*lines["speed_up"], movielens)), f"{100 * memory:.0f} %"], method
    words = " ".join(README.split())
    by_case = summary.set_index(["method", "workload", "asked_repetition_ratio"]).sort_index()
    cases = [("synthetic", ratio) for ratio in (1.0, 2.0, 4.0, 16.0, 64.0)] + [("movielens", math.nan)]

    def values(column: str, method: str) -> list[float]:
        return [by_case.loc[(method, *case), column].item() for case in cases]

    ours, cached = (values("memory_bytes", method) for method in ("single_step", "gradient_cache_unique"))
    less = [round(100 * (1 - theirs / own)) for own, theirs in zip(ours, cached, strict=True)]
    told = (
        f"needs {min(less[2:])} to {max(less[2:])} % less memory from MovieLens' ratio of 2.9 on, where all of them "
        f"fit one of its chunks, {less[1]} % less at a ratio of 2 and {less[0]} % where nothing repeats"
    )
    assert told in words
    exact = [by_case.xs(case, level=(1, 2)).query("exactness == 'exact'")["memory_bytes"] for case in cases]
    checkpointing_least = [lines.idxmin() == "activation_checkpointing" for lines in exact]
    assert checkpointing_least == [True, False, False, False, False, True]
    multi_step = values("speed_up", "multi_step")
    for stale in ("speedyfeed", "historical_embeddings", "pseudo_target_regression"):
        assert values("speed_up", stale)[0] > 1.1, "gains where nothing repeats"
        clearly = [own / other for own, other in zip(multi_step, values("speed_up", stale), strict=True)]
        assert min(clearly[1:]) > 1.5, stale
    records = load(ROOT / "reports" / "gallery" / "h100-peers").records
    settings = [r.detail["method_settings"] for r in records if r.method == "multi_step"]
    assert {each["ce_batch_tokens"] for each in settings} == {16384}, "minibatches of up to so many tokens"
    (least,) = [
        r.encoded_tokens
        for r in records
        if r.method == "multi_step" and r.case["item_repetition_ratio"] == 64 and r.encoded_tokens is not None
    ]
    assert 16 * least / 2 < 16384, "once an interval: what is encoded at first and then trained on fits one minibatch"


def test_its_table_of_the_fast_engine_is_that_of_the_runs_in_the_gallery() -> None:
    runs = {
        name: frames(load(ROOT / "reports" / "gallery" / name).records).summary for name in ("h100-full", "h100-fast")
    }

    def line(run: str, text_length: float, ratio: float, method: str) -> Any:
        lines = runs[run]
        return lines[
            (lines["workload"] == "synthetic")
            & (lines["batch_size"] == 32)
            & (lines["text_length"] == text_length)
            & (lines["asked_repetition_ratio"] == ratio)
            & (lines["method"] == method)
        ].squeeze()

    table = README[README.index("| texts of up to |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 5
    for row in table:
        texts, ratio, *told = (cell.strip() for cell in row.strip("|").split("|"))
        case = (float(texts.split()[0]), float(ratio))
        eager, single_eager = (line("h100-full", *case, method) for method in ("e2e", "single_step"))
        fast, single = (line("h100-fast", *case, method) for method in ("e2e", "single_step"))
        assert told == [
            f"{1e3 * eager['median_s']:.0f} ms",
            *(f"{1e3 * found['median_s']:.1f} ms" for found in (single_eager, fast, single)),
            f"{single['speed_up']:.2f}x",
            f"{fast['memory_bytes'] / 2**30:.1f} to {single['memory_bytes'] / 2**30:.1f} GiB",
        ]


def test_its_intervals_are_those_of_the_gate_in_the_gallery() -> None:
    summary = frames(load(ROOT / "reports" / "gallery" / "h100-gate").records).summary
    words = " ".join(README.split())
    lines = summary.set_index(["method", "asked_repetition_ratio"])
    for method, ratio, told in (
        ("single_step", 8, "single_step is {:.2f}x ({:.2f}x to {:.2f}x) at a ratio of 8"),
        ("single_step", 2, "{:.2f}x ({:.2f}x to {:.2f}x) at 2"),
        ("single_step", 1, "{:.3f}x ({:.3f}x to {:.3f}x) where nothing repeats"),
        ("multi_step", 8, "is {:.2f}x ({:.2f}x to {:.2f}x) at 8"),
    ):
        assert told.format(*lines.loc[(method, ratio), ["speed_up", "speed_up_low", "speed_up_high"]]) in words
    lines = frames(load(ROOT / "reports" / "gallery" / "h100-fast").records).summary
    short = lines[(lines["batch_size"] == 32) & (lines["text_length"] == 32)].set_index(
        ["method", "asked_repetition_ratio"]
    )
    leads = [short.loc[("multi_step", ratio), "speed_up"] for ratio in (16, 4, 1)]
    assert "leads at each ratio of short texts ({:.1f}x at 16, {:.1f}x at 4, {:.1f}x at 1)".format(*leads) in words
    assert all(found > short.loc[("single_step", r), "speed_up"] for found, r in zip(leads, (16, 4, 1), strict=True))
    seconds = lines[lines["batch_size"] == 256].set_index("method")["median_s"]
    told = "single_step {:.1f} ms a step and multi_step with N = 64 {:.1f} ms"
    assert told.format(1e3 * seconds["single_step"], 1e3 * seconds["multi_step"]) in words


@pytest.mark.parametrize(
    ("heading", "run", "lines"),
    [("| method | AUC | against", "h100-train-response", 8), ("| ranking | AUC |", "h100-train-ranking", 7)],
)
def test_its_tables_of_time_to_quality_are_those_of_the_runs_in_the_gallery(heading: str, run: str, lines: int) -> None:
    summary = training_frames(load_training(ROOT / "reports" / "gallery" / run).points).summary.set_index("label")
    table = README[README.index(heading) :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(summary) == lines
    for row in table:
        label, *told = (cell.strip() for cell in row.replace("`", "").strip("|").split("|"))
        line = summary.loc[label]
        difference = [round(100 * line[f"difference_auc{end}"], 1) + 0.0 for end in ("", "_low", "_high")]
        assert told == [
            f"{100 * line['test_auc']:.1f}",
            "" if label == "e2e" else "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference).replace("+0.0", "0.0"),
            f"{100 * line['test_cold_auc']:.1f}",
            f"{line['best_s']:.1f} s",
            _to_quality(line),
            f"{line['memory_bytes'] / 2**30:.1f} GiB",
        ], label


def _to_quality(line: Any) -> str:
    """Mean seconds to e2e's quality, if every seed got there."""
    if line["reached_seeds"] < line["goal_seeds"]:
        return "not always" if line["reached_seeds"] else "never"
    return f"{line['quality_s']:.1f} s"


def test_what_it_says_of_response_prediction_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(ROOT / "reports" / "gallery" / "h100-train-response").points
    lines, words = training_frames(points).summary.set_index("label"), " ".join(README.split())

    def told(text: str, label: str) -> bool:
        ends = (lines.loc[label, f"speed_up_quality{end}"] for end in ("", "_low", "_high"))
        return text.format(*ends) in words

    assert told("N=10 gets to `e2e`'s quality {:.1f} times as soon ({:.1f} to {:.1f})", "multi_step N=10")
    assert told("not told apart from `e2e` in time ({:.2f} times as soon, {:.1f} to {:.1f})", "multi_step N=auto")
    assert list(lines.loc[["multi_step N=0.5E", "multi_step N=1E"], "reached_seeds"]) == [2, 2]
    for label in ("single_step", *(f"multi_step N={steps}" for steps in (10, "0.5E", "auto"))):
        assert lines.loc[label, "difference_auc_low"] < 0 < lines.loc[label, "difference_auc_high"], (
            "ends where e2e ends"
        )
    lower = [abs(100 * lines.loc["multi_step N=1E", f"difference_auc{end}"]) for end in ("", "_high", "_low")]
    assert "but for 1E, which ends {:.1f} points lower ({:.1f} to {:.1f})".format(*lower) in words
    assert lines.loc["single_step", "speed_up_best"] > 2, "in half the time"
    assert lines.loc["multi_step N=10", "memory_ratio"] < 1 / 7.5, "an eighth of the memory"
    chosen = {(p.detail or {}).get("interval") for p in points if p.accumulation_steps == "auto"} - {None}
    assert chosen == {16, 32}
    memory = [lines.loc[label, "memory_bytes"] for label in ("multi_step N=auto", "single_step")]
    assert abs(memory[0] / memory[1] - 1) < 0.1, "the memory of a single step"
    worth = [-100 * lines.loc[label, "difference_auc"] for label in ("frozen", "ids_only")]
    assert "worth {:.0f} points over the frozen encoder and {:.1f} over ids without text".format(*worth) in words


def test_what_it_says_of_speed_ups_in_ranking_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(ROOT / "reports" / "gallery" / "h100-train-ranking").points
    lines = training_frames(points).summary.set_index("label")

    def told(words: str, label: str) -> str:
        return words.format(*(lines.loc[label, f"speed_up_quality{end}"] for end in ("", "_low", "_high")))

    words = " ".join(README.split())
    assert told("end-to-end training {:.2f} times as fast ({:.2f} to {:.2f})", "single_step") in words
    assert (
        told("With 0.5E it gets to `e2e`'s quality {:.1f} times as soon ({:.1f} to {:.0f})", "multi_step N=0.5E")
        in words
    )
    assert told("with 1E {:.1f} times ({:.1f} to {:.1f})", "multi_step N=1E") in words
    lower = [
        [-100 * lines.loc[f"multi_step N={steps}", f"difference_cold_auc{end}"] for end in ("", "_high", "_low")]
        for steps in ("10", "1E", "0.5E")
    ]
    assert "N=10 ends {:.1f} points lower ({:.1f} to {:.1f})".format(*lower[0]) in words
    assert "and 1E {:.1f} ({:.1f} to {:.1f})".format(*lower[1]) in words
    assert f"the {lower[2][0]:.1f} of 0.5E are not told apart" in words
    assert lower[2][1] < 0 < lower[2][2]
    low, high = (lines.loc["multi_step N=10", f"speed_up_quality_{end}"] for end in ("low", "high"))
    assert low < 1 < high, "N=10 is not told apart from e2e"
    for label in ("multi_step N=0.5E", "multi_step N=1E"):
        low, high = (lines.loc[label, f"speed_up_quality_{end}"] for end in ("low", "high"))
        assert low < lines.loc["single_step", "speed_up_quality"] < high, "not told apart from Single-step's pace"


def test_what_it_says_of_the_interval_chosen_while_training_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(ROOT / "reports" / "gallery" / "cpu-train-auto").points
    lines, words = training_frames(points).summary.set_index("label"), " ".join(README.split())
    auto, fixed = lines.loc["multi_step N=auto"], lines.loc["multi_step N=10"]
    above = [100 * auto[f"difference_auc{end}"] for end in ("", "_low", "_high")]
    assert "AUC was {:.1f} points above `e2e`'s ({:+.1f} to {:+.1f}, three seeds)".format(*above) in words
    assert f"where N=10 was {-100 * fixed['difference_auc']:.1f} below" in words
    assert f"quality took {auto['quality_s']:.0f} s instead of {lines.loc['e2e', 'quality_s']:.0f}" in words
    assert auto["speed_up_quality_low"] < 1 < auto["speed_up_quality_high"]
    chosen = [int((p.detail or {}).get("interval") or 0) for p in points if p.accumulation_steps == "auto"]
    assert sum(steps >= 256 for steps in chosen) == 3, "N went to 256 with every seed"


def test_its_table_of_quality_beside_the_peers_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(ROOT / "reports" / "gallery" / "h100-train-peers").points
    summary = training_frames(points).summary.set_index("label")
    table = README[README.index("| method | gradient | AUC, against e2e") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(summary) == 5
    for row in table:
        label, exactness, *told = (cell.strip() for cell in row.replace("`", "").strip("|").split("|"))
        line = summary.loc[label]
        difference = [round(100 * line[f"difference_auc{end}"], 1) + 0.0 for end in ("", "_low", "_high")]
        assert [exactness, *told] == [
            line["exactness"],
            "" if label == "e2e" else "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference).replace("+0.0)", "0.0)"),
            _to_quality(line),
            f"{line['memory_bytes'] / 2**30:.1f} GiB",
        ], label


def test_what_it_says_of_a_faster_pace_of_reuse_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(ROOT / "reports" / "gallery" / "h100-train-peers-pace").points
    line = training_frames(points).summary.set_index("label").loc["speedyfeed"]
    below = [-100 * line[f"difference_auc{end}"] for end in ("", "_high", "_low")]
    told = "at ten times that pace it ended {:.1f} points below `e2e` ({:.1f} to {:.1f}) and never got there"
    assert told.format(*below) in " ".join(README.split())
    assert math.isnan(line["quality_s"])
    settings = next(p.detail for p in points if p.method == "speedyfeed" and p.detail)["method_settings"]
    assert settings["beta"] == pytest.approx(10 * SpeedyFeed.Settings().beta)


def test_its_table_of_epochs_is_that_of_the_run_in_the_gallery() -> None:
    found = epochs(load(ROOT / "reports" / "gallery" / "h100-epochs").records)
    by_name = {log.name: log for log in DATA_SETS}
    table = README[README.index("| log of the size of | users a batch") :].split("\n\n")[0].splitlines()[2:]
    assert {row.split("|")[1].strip() for row in table} == set(by_name)
    for row in table:
        name, users, *told = (cell.strip() for cell in row.strip("|").split("|"))
        log = by_name[name]
        sizes = [int(size.replace(",", "")) for size in users.split(";")]
        lines = {
            (int(epoch.record.case["batch_size"]), epoch.label): epoch
            for epoch in found
            if epoch.record.case["workload"] == log.key
        }
        assert {size for size, _ in lines} == set(sizes)
        e2e = lines[sizes[0], "e2e"]
        expected = [
            f"{e2e.item_repetition_ratio:.2f}",
            f"{e2e.seconds / 3600:.{2 if e2e.seconds < 36_000 else 1}f} h"
            if e2e.seconds > 3600
            else _seconds(e2e.seconds),
            f"{lines[sizes[0], 'e2e_unique'].speed_up:.2f}x",
            f"{lines[sizes[0], 'single_step'].speed_up:.2f}x",
        ]
        for label in ("single_step", "multi_step N=0.5E", "multi_step N=1E"):
            if label != "single_step":
                speed_up = lines[sizes[-1], label].speed_up or math.nan
                expected.append(f"{speed_up:.{0 if speed_up > 20 else 1}f}x")
            reported = log.lines.get(label)
            expected.append("" if reported is None else f"{reported.speed_up:g}x")
        assert told == expected
    words = " ".join(README.split())
    for epoch in found:
        steps, intervals = (
            (epoch.record.steps_per_sample or 0) * len(epoch.record.samples_s),
            epoch.record.accumulation_steps,
        )
        assert steps == (64 if intervals == 16 else 16), "sixteen batches, or four intervals that begin with them"
    uncertain = {log: _half_width(f"shape:{log}") for log in ("poj", "mind_body", "toeic", "mind")}
    assert 0.14 < uncertain["poj"] < 0.18, "an epoch of e2e is known to a sixth"
    assert 0.14 < uncertain["mind_body"] < 0.18
    assert max(uncertain["toeic"], uncertain["mind"]) < 0.08
    whole = next(
        epoch for epoch in found if epoch.label == "multi_step N=1E" and epoch.record.case["batch_size"] == 2048
    )
    cf_share = whole.steps * (whole.record.cf_step_s or math.nan) / whole.seconds
    assert f"what is left of TOEIC's {whole.seconds:.0f} s is the CF module's steps ({100 * cf_share:.0f} %)" in words
    peak = (whole.record.peak_memory_bytes.allocated or 0) / 2**30
    assert f"({peak:.1f} GiB for 2,048 users)" in words
    waited = []
    for share in ("1E", "0.5E"):
        records = load(ROOT / "reports" / "gallery" / "h100-epochs-whole" / share).records
        (record,) = [record for record in records if record.accumulation_steps == share and record.outcome == "ok"]
        assert record.steps_per_sample == round(float(share[:-1]) * (record.steps_per_epoch or 0)), "a whole interval"
        waited.append(record.samples_s[0] * record.steps_per_sample)
    told = "the epoch that is one at N=1E in {:.0f} s, the half epoch at N=0.5E in {:.0f} s"
    assert told.format(*waited) in words


def _half_width(workload: str) -> float:
    """Of e2e's mean step time: its 95 % interval over windows by Student's t, as a part of the mean."""
    records = [r for r in load(ROOT / "reports" / "gallery" / "h100-epochs").records if r.case["workload"] == workload]
    windows = next(r.samples_s for r in records if r.method == "e2e")
    error = statistics.stdev(windows) / math.sqrt(len(windows))
    return float(stats.t.ppf(0.975, len(windows) - 1)) * error / statistics.mean(windows)


def _seconds(seconds: float) -> str:
    return f"{seconds:.{0 if seconds > 20 else 1}f} s"


def test_its_memory_at_an_equal_budget_is_that_of_the_runs_in_the_gallery() -> None:
    table = README[README.index("| chunks of up to |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 6
    for row in table:
        chunks, ratio, *told = (cell.strip() for cell in row.strip("|").split("|"))
        run = ROOT / "reports" / "gallery" / "h100-peers-memory" / f"chunks-of-{chunks.split()[0].replace(',', '')}"
        lines = frames(load(run).records).summary.set_index(["method", "asked_repetition_ratio"])
        ours, peer = (lines.loc[(method, float(ratio))] for method in ("single_step", "gradient_cache_unique"))
        assert told == [
            f"{ours['memory_bytes'] / 2**30:.2f} GiB",
            f"{peer['memory_bytes'] / 2**30:.2f} GiB",
            f"{100 * (ours['memory_bytes'] / peer['memory_bytes'] - 1):+.1f} %",
        ]
    peers = frames(load(ROOT / "reports" / "gallery" / "h100-peers").records).summary
    least = peers.set_index(["method", "asked_repetition_ratio"]).loc[("activation_checkpointing", 1.0), "memory_bytes"]
    assert f"needs {least / 2**30:.1f} GiB at a ratio of 1 in the run above" in " ".join(README.split())


def test_its_table_of_memory_is_that_of_the_runs_in_the_gallery() -> None:
    table = README[README.index("| log, texts per encoder minibatch") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 4
    fixed = {}
    for row in table:
        name, *told = (cell.strip() for cell in row.strip("|").split("|"))
        log, texts = ("toeic" if "TOEIC" in name else "mind_body"), name.split()[-1]
        found: list[str] = []
        for engine in ("eager", "fast"):
            records = load(ROOT / "reports" / "gallery" / "h100-memory" / f"{log}-{texts}-{engine}").records
            peaks = {record.method: record.peak_memory_bytes.allocated or 0 for record in records}
            fixed |= {log: (records[0].fixed_memory_bytes or 0) / 2**30}
            found += [f"{peaks['e2e'] / 2**30:.1f} GiB", f"{peaks['multi_step'] / 2**30:.1f} GiB"]
            if engine == "eager":
                found.append(f"{100 * peaks['multi_step'] / peaks['e2e']:.1f} %")
        assert [*told[:3], *told[4:]] == found
        part, _, whole = told[3].partition(" of ")
        assert told[3].endswith(f"{100 * float(part) / float(whole.split()[0]):.1f} %")
    told = "{toeic:.1f} GiB with DKT and {mind_body:.1f} with NRMS".format(**fixed)
    assert told in " ".join(README.split())


def test_what_the_fast_engine_is_worth_on_two_cores_is_that_of_the_run_in_the_gallery() -> None:
    run = load(ROOT / "reports" / "gallery" / "cpu-fast")
    seconds = {(r.method, r.engine, r.block): statistics.median(r.samples_s) for r in run.records}
    words = " ".join(README.split())
    for method, told in (
        ("e2e", "a step of e2e is {:.1f}x ({:.1f}x to {:.1f}x in six blocks)"),
        ("single_step", "one of single_step {:.1f}x ({:.1f}x to {:.1f}x)"),
    ):
        gains = [seconds[method, "eager", block] / seconds[method, "fast", block] for block in range(6)]
        assert told.format(statistics.median(gains), min(gains), max(gains)) in words
    (tokens,) = {(r.real_tokens, r.padded_tokens) for r in run.records if (r.method, r.engine) == ("e2e", "eager")}
    assert abs(tokens[0] / tokens[1] - 0.5) < 0.01, "texts are half as long as text_length"
