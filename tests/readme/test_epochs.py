"""What the README says of an epoch of the paper's logs is what the runs in the gallery say."""

from __future__ import annotations

import math
import statistics

from scipy import stats

from bench.results.epochs import epochs
from bench.results.store import load
from reports.paper import DATA_SETS
from tests.readme._readme import GALLERY, WORDS, rows_below


def test_its_table_of_epochs_is_that_of_the_run_in_the_gallery() -> None:
    found = epochs(load(GALLERY / "h100-epochs").records)
    by_name = {log.name: log for log in DATA_SETS}
    table = rows_below("| log of the size of | users a batch")
    assert {row[0] for row in table} == set(by_name)
    for row in table:
        name, users, *told = row
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
    for epoch in found:
        record = epoch.record
        steps = (record.steps_per_sample or 0) * len(record.samples_s)
        expected_steps = 64 if record.accumulation_steps == 16 else 16
        assert steps == expected_steps, "sixteen batches, or four intervals that begin with them"
    uncertain = {log: _half_width(f"shape:{log}") for log in ("poj", "mind_body", "toeic", "mind")}
    assert 0.14 < uncertain["poj"] < 0.18, "an epoch of e2e is known to a sixth"
    assert 0.14 < uncertain["mind_body"] < 0.18
    assert max(uncertain["toeic"], uncertain["mind"]) < 0.08
    whole = next(
        epoch for epoch in found if epoch.label == "multi_step N=1E" and epoch.record.case["batch_size"] == 2048
    )
    cf_share = whole.steps * (whole.record.cf_step_s or math.nan) / whole.seconds
    assert f"what is left of TOEIC's {whole.seconds:.0f} s is the CF module's steps ({100 * cf_share:.0f} %)" in WORDS
    peak = (whole.record.peak_memory_bytes.allocated or 0) / 2**30
    assert f"({peak:.1f} GiB for 2,048 users)" in WORDS
    waited = []
    for share in ("1E", "0.5E"):
        records = load(GALLERY / "h100-epochs-whole" / share).records
        (record,) = [record for record in records if record.accumulation_steps == share and record.outcome == "ok"]
        assert record.steps_per_sample == round(float(share[:-1]) * (record.steps_per_epoch or 0)), "a whole interval"
        waited.append(record.samples_s[0] * record.steps_per_sample)
    told = "the epoch that is one at N=1E in {:.0f} s, the half epoch at N=0.5E in {:.0f} s"
    assert told.format(*waited) in WORDS


def _half_width(workload: str) -> float:
    """Of e2e's mean step time: its 95 % interval over windows by Student's t, as a part of the mean."""
    records = [r for r in load(GALLERY / "h100-epochs").records if r.case["workload"] == workload]
    windows = next(r.samples_s for r in records if r.method == "e2e")
    error = statistics.stdev(windows) / math.sqrt(len(windows))
    return float(stats.t.ppf(0.975, len(windows) - 1)) * error / statistics.mean(windows)


def _seconds(seconds: float) -> str:
    return f"{seconds:.{0 if seconds > 20 else 1}f} s"
