"""What the README says of the peers' time and memory is what the runs in the gallery say."""

from __future__ import annotations

import math

from bench.results.store import load
from bench.results.summary import frames
from tests.readme._readme import GALLERY, WORDS, rows_below


def test_its_table_of_peers_is_that_of_the_run_in_the_gallery() -> None:
    summary = frames(load(GALLERY / "h100-peers").records).summary
    synthetic = summary[summary["workload"] == "synthetic"].sort_values("asked_repetition_ratio")
    assert list(synthetic["asked_repetition_ratio"].unique()) == [1.0, 2.0, 4.0, 16.0, 64.0]
    table = rows_below("| speed against `e2e`")
    assert len(table) == 13
    for row in table:
        name, gradient, *told = row
        method = name.split("`")[1]
        lines = synthetic[synthetic["method"] == method]
        assert set(lines["exactness"]) == {gradient}
        (movielens,) = summary[(summary["workload"] == "movielens") & (summary["method"] == method)]["speed_up"]
        (memory,) = lines[lines["asked_repetition_ratio"] == 4]["memory_ratio"]
        assert told == [*(f"{x:.2f}x" for x in (*lines["speed_up"], movielens)), f"{100 * memory:.0f} %"], method
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
    assert told in WORDS
    exact = [by_case.xs(case, level=(1, 2)).query("exactness == 'exact'")["memory_bytes"] for case in cases]
    checkpointing_least = [lines.idxmin() == "activation_checkpointing" for lines in exact]
    assert checkpointing_least == [True, False, False, False, False, True]
    multi_step = values("speed_up", "multi_step")
    for stale in ("speedyfeed", "historical_embeddings", "pseudo_target_regression"):
        assert values("speed_up", stale)[0] > 1.1, "gains where nothing repeats"
        clearly = [own / other for own, other in zip(multi_step, values("speed_up", stale), strict=True)]
        assert min(clearly[1:]) > 1.5, stale
    records = load(GALLERY / "h100-peers").records
    settings = [r.detail["method_settings"] for r in records if r.method == "multi_step"]
    assert {each["ce_batch_tokens"] for each in settings} == {16384}, "minibatches of up to so many tokens"
    (least,) = [
        r.encoded_tokens
        for r in records
        if r.method == "multi_step" and r.case["item_repetition_ratio"] == 64 and r.encoded_tokens is not None
    ]
    assert 16 * least / 2 < 16384, "once an interval: what is encoded at first and then trained on fits one minibatch"


def test_its_memory_at_an_equal_budget_is_that_of_the_runs_in_the_gallery() -> None:
    table = rows_below("| chunks of up to |")
    assert len(table) == 6
    for row in table:
        chunks, ratio, *told = row
        run = GALLERY / "h100-peers-memory" / f"chunks-of-{chunks.split()[0].replace(',', '')}"
        lines = frames(load(run).records).summary.set_index(["method", "asked_repetition_ratio"])
        ours, peer = (lines.loc[(method, float(ratio))] for method in ("single_step", "gradient_cache_unique"))
        assert told == [
            f"{ours['memory_bytes'] / 2**30:.2f} GiB",
            f"{peer['memory_bytes'] / 2**30:.2f} GiB",
            f"{100 * (ours['memory_bytes'] / peer['memory_bytes'] - 1):+.1f} %",
        ]
    peers = frames(load(GALLERY / "h100-peers").records).summary
    least = peers.set_index(["method", "asked_repetition_ratio"]).loc[("activation_checkpointing", 1.0), "memory_bytes"]
    assert f"needs {least / 2**30:.1f} GiB at a ratio of 1 in the run above" in WORDS
