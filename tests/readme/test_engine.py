"""What the README says of engines, repetition and intervals is what the runs in the gallery say."""

from __future__ import annotations

import statistics
from typing import Any

from bench.results.store import load
from bench.results.summary import frames
from tests.readme._readme import GALLERY, WORDS, rows_below


def test_its_figures_are_those_of_the_run_in_the_gallery() -> None:
    """Every number of the H100 table can be read off the raw measurements that lie beside it."""
    run = load(GALLERY / "h100-full")
    summary = frames(run.records).summary
    lines = summary[
        (summary["workload"] == "synthetic") & (summary["batch_size"] == 32) & (summary["text_length"] == 128)
    ]
    table = rows_below("| repetition ratio | e2e ms/step")
    assert len(table) == 5
    for row in table:
        ratio, e2e_ms, *told = row
        case = lines[lines["asked_repetition_ratio"] == float(ratio)].set_index("method")
        assert f"{1e3 * case.loc['e2e', 'median_s']:.0f}" == e2e_ms
        speed_ups = [f"{case.loc[method, 'speed_up']:.2f}x" for method in ("e2e_unique", "single_step", "multi_step")]
        peaks = [
            f"{case.loc[method, 'memory_bytes'] / 2**30:.1f} GiB" for method in ("e2e", "single_step", "multi_step")
        ]
        assert told == speed_ups + peaks
    titles = summary[(summary["batch_size"] == 32) & (summary["text_length"] == 32)]
    most = titles[(titles["asked_repetition_ratio"] == 16) & (titles["method"] == "single_step")]["speed_up"].item()
    assert f"a repetition of 16 buys {most:.1f}x and not 16x" in WORDS
    movielens = summary[summary["workload"] == "movielens"].set_index("method")
    for method, told in (
        ("single_step", "single_step {:.2f}x in {:.0f} %"),
        ("multi_step", "multi_step {:.2f}x in {:.0f} %"),
    ):
        line = movielens.loc[method]
        assert told.format(line["speed_up"], 100 * line["memory_ratio"]) in WORDS


def test_its_table_of_the_fast_engine_is_that_of_the_runs_in_the_gallery() -> None:
    runs = {name: frames(load(GALLERY / name).records).summary for name in ("h100-full", "h100-fast")}

    def line(run: str, text_length: float, ratio: float, method: str) -> Any:
        lines = runs[run]
        return lines[
            (lines["workload"] == "synthetic")
            & (lines["batch_size"] == 32)
            & (lines["text_length"] == text_length)
            & (lines["asked_repetition_ratio"] == ratio)
            & (lines["method"] == method)
        ].squeeze()

    table = rows_below("| texts of up to |")
    assert len(table) == 5
    for row in table:
        texts, ratio, *told = row
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
    summary = frames(load(GALLERY / "h100-gate").records).summary
    lines = summary.set_index(["method", "asked_repetition_ratio"])
    for method, ratio, told in (
        ("single_step", 8, "single_step is {:.2f}x ({:.2f}x to {:.2f}x) at a ratio of 8"),
        ("single_step", 2, "{:.2f}x ({:.2f}x to {:.2f}x) at 2"),
        ("single_step", 1, "{:.3f}x ({:.3f}x to {:.3f}x) where nothing repeats"),
        ("multi_step", 8, "is {:.2f}x ({:.2f}x to {:.2f}x) at 8"),
    ):
        assert told.format(*lines.loc[(method, ratio), ["speed_up", "speed_up_low", "speed_up_high"]]) in WORDS
    lines = frames(load(GALLERY / "h100-fast").records).summary
    short = lines[(lines["batch_size"] == 32) & (lines["text_length"] == 32)].set_index(
        ["method", "asked_repetition_ratio"]
    )
    leads = [short.loc[("multi_step", ratio), "speed_up"] for ratio in (16, 4, 1)]
    assert "leads at each ratio of short texts ({:.1f}x at 16, {:.1f}x at 4, {:.1f}x at 1)".format(*leads) in WORDS
    assert all(found > short.loc[("single_step", r), "speed_up"] for found, r in zip(leads, (16, 4, 1), strict=True))
    seconds = lines[lines["batch_size"] == 256].set_index("method")["median_s"]
    told = "single_step {:.1f} ms a step and multi_step with N = 64 {:.1f} ms"
    assert told.format(1e3 * seconds["single_step"], 1e3 * seconds["multi_step"]) in WORDS


def test_what_the_fast_engine_is_worth_on_two_cores_is_that_of_the_run_in_the_gallery() -> None:
    run = load(GALLERY / "cpu-fast")
    seconds = {(r.method, r.engine, r.block): statistics.median(r.samples_s) for r in run.records}
    for method, told in (
        ("e2e", "a step of e2e is {:.1f}x ({:.1f}x to {:.1f}x in six blocks)"),
        ("single_step", "one of single_step {:.1f}x ({:.1f}x to {:.1f}x)"),
    ):
        gains = [seconds[method, "eager", block] / seconds[method, "fast", block] for block in range(6)]
        assert told.format(statistics.median(gains), min(gains), max(gains)) in WORDS
    (tokens,) = {(r.real_tokens, r.padded_tokens) for r in run.records if (r.method, r.engine) == ("e2e", "eager")}
    assert abs(tokens[0] / tokens[1] - 0.5) < 0.01, "texts are half as long as text_length"


def test_its_table_of_memory_is_that_of_the_runs_in_the_gallery() -> None:
    table = rows_below("| log, texts per encoder minibatch")
    assert len(table) == 4
    fixed = {}
    for row in table:
        name, *told = row
        log, texts = ("toeic" if "TOEIC" in name else "mind_body"), name.split()[-1]
        found: list[str] = []
        for engine in ("eager", "fast"):
            records = load(GALLERY / "h100-memory" / f"{log}-{texts}-{engine}").records
            peaks = {record.method: record.peak_memory_bytes.allocated or 0 for record in records}
            fixed |= {log: (records[0].fixed_memory_bytes or 0) / 2**30}
            found += [f"{peaks['e2e'] / 2**30:.1f} GiB", f"{peaks['multi_step'] / 2**30:.1f} GiB"]
            if engine == "eager":
                found.append(f"{100 * peaks['multi_step'] / peaks['e2e']:.1f} %")
        assert [*told[:3], *told[4:]] == found
        part, _, whole = told[3].partition(" of ")
        assert told[3].endswith(f"{100 * float(part) / float(whole.split()[0]):.1f} %")
    told = "{toeic:.1f} GiB with DKT and {mind_body:.1f} with NRMS".format(**fixed)
    assert told in WORDS
