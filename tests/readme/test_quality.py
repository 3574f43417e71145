"""What the README says of quality and of the time to it is what the trainings in the gallery say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.peers.speedyfeed import SpeedyFeed
from bench.results.training import load as load_training
from bench.results.training_summary import frames as training_frames
from tests.readme._readme import GALLERY, WORDS, rows_below


@pytest.mark.parametrize(
    ("heading", "run", "lines"),
    [("| method | AUC | against", "h100-train-response", 8), ("| ranking | AUC |", "h100-train-ranking", 7)],
)
def test_its_tables_of_time_to_quality_are_those_of_the_runs_in_the_gallery(heading: str, run: str, lines: int) -> None:
    summary = training_frames(load_training(GALLERY / run).points).summary.set_index("label")
    table = rows_below(heading)
    assert len(table) == len(summary) == lines
    for row in table:
        label, *told = (cell.replace("`", "") for cell in row)
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
    points = load_training(GALLERY / "h100-train-response").points
    lines = training_frames(points).summary.set_index("label")

    def told(text: str, label: str) -> bool:
        ends = (lines.loc[label, f"speed_up_quality{end}"] for end in ("", "_low", "_high"))
        return text.format(*ends) in WORDS

    assert told("N=10 gets to `e2e`'s quality {:.1f} times as soon ({:.1f} to {:.1f})", "multi_step N=10")
    assert told("not told apart from `e2e` in time ({:.2f} times as soon, {:.1f} to {:.1f})", "multi_step N=auto")
    assert list(lines.loc[["multi_step N=0.5E", "multi_step N=1E"], "reached_seeds"]) == [2, 2]
    for label in ("single_step", *(f"multi_step N={steps}" for steps in (10, "0.5E", "auto"))):
        assert lines.loc[label, "difference_auc_low"] < 0 < lines.loc[label, "difference_auc_high"], (
            "ends where e2e ends"
        )
    lower = [abs(100 * lines.loc["multi_step N=1E", f"difference_auc{end}"]) for end in ("", "_high", "_low")]
    assert "but for 1E, which ends {:.1f} points lower ({:.1f} to {:.1f})".format(*lower) in WORDS
    assert lines.loc["single_step", "speed_up_best"] > 2, "in half the time"
    assert lines.loc["multi_step N=10", "memory_ratio"] < 1 / 7.5, "an eighth of the memory"
    chosen = {(p.detail or {}).get("interval") for p in points if p.accumulation_steps == "auto"} - {None}
    assert chosen == {16, 32}
    memory = [lines.loc[label, "memory_bytes"] for label in ("multi_step N=auto", "single_step")]
    assert abs(memory[0] / memory[1] - 1) < 0.1, "the memory of a single step"
    worth = [-100 * lines.loc[label, "difference_auc"] for label in ("frozen", "ids_only")]
    assert "worth {:.0f} points over the frozen encoder and {:.1f} over ids without text".format(*worth) in WORDS


def test_what_it_says_of_speed_ups_in_ranking_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(GALLERY / "h100-train-ranking").points
    lines = training_frames(points).summary.set_index("label")

    def told(words: str, label: str) -> str:
        return words.format(*(lines.loc[label, f"speed_up_quality{end}"] for end in ("", "_low", "_high")))

    assert told("end-to-end training {:.2f} times as fast ({:.2f} to {:.2f})", "single_step") in WORDS
    assert (
        told("With 0.5E it gets to `e2e`'s quality {:.1f} times as soon ({:.1f} to {:.0f})", "multi_step N=0.5E")
        in WORDS
    )
    assert told("with 1E {:.1f} times ({:.1f} to {:.1f})", "multi_step N=1E") in WORDS
    lower = [
        [-100 * lines.loc[f"multi_step N={steps}", f"difference_cold_auc{end}"] for end in ("", "_high", "_low")]
        for steps in ("10", "1E", "0.5E")
    ]
    assert "N=10 ends {:.1f} points lower ({:.1f} to {:.1f})".format(*lower[0]) in WORDS
    assert "and 1E {:.1f} ({:.1f} to {:.1f})".format(*lower[1]) in WORDS
    assert f"the {lower[2][0]:.1f} of 0.5E are not told apart" in WORDS
    assert lower[2][1] < 0 < lower[2][2]
    low, high = (lines.loc["multi_step N=10", f"speed_up_quality_{end}"] for end in ("low", "high"))
    assert low < 1 < high, "N=10 is not told apart from e2e"
    for label in ("multi_step N=0.5E", "multi_step N=1E"):
        low, high = (lines.loc[label, f"speed_up_quality_{end}"] for end in ("low", "high"))
        assert low < lines.loc["single_step", "speed_up_quality"] < high, "not told apart from Single-step's pace"


def test_what_it_says_of_the_interval_chosen_while_training_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(GALLERY / "cpu-train-auto").points
    lines = training_frames(points).summary.set_index("label")
    auto, fixed = lines.loc["multi_step N=auto"], lines.loc["multi_step N=10"]
    above = [100 * auto[f"difference_auc{end}"] for end in ("", "_low", "_high")]
    assert "AUC was {:.1f} points above `e2e`'s ({:+.1f} to {:+.1f}, three seeds)".format(*above) in WORDS
    assert f"where N=10 was {-100 * fixed['difference_auc']:.1f} below" in WORDS
    assert f"quality took {auto['quality_s']:.0f} s instead of {lines.loc['e2e', 'quality_s']:.0f}" in WORDS
    assert auto["speed_up_quality_low"] < 1 < auto["speed_up_quality_high"]
    chosen = [int((p.detail or {}).get("interval") or 0) for p in points if p.accumulation_steps == "auto"]
    assert sum(steps >= 256 for steps in chosen) == 3, "N went to 256 with every seed"


def test_its_table_of_quality_beside_the_peers_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(GALLERY / "h100-train-peers").points
    summary = training_frames(points).summary.set_index("label")
    table = rows_below("| method | gradient | AUC, against e2e")
    assert len(table) == len(summary) == 5
    for row in table:
        label, exactness, *told = (cell.replace("`", "") for cell in row)
        line = summary.loc[label]
        difference = [round(100 * line[f"difference_auc{end}"], 1) + 0.0 for end in ("", "_low", "_high")]
        assert [exactness, *told] == [
            line["exactness"],
            "" if label == "e2e" else "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference).replace("+0.0)", "0.0)"),
            _to_quality(line),
            f"{line['memory_bytes'] / 2**30:.1f} GiB",
        ], label


def test_what_it_says_of_a_faster_pace_of_reuse_is_that_of_the_run_in_the_gallery() -> None:
    points = load_training(GALLERY / "h100-train-peers-pace").points
    line = training_frames(points).summary.set_index("label").loc["speedyfeed"]
    below = [-100 * line[f"difference_auc{end}"] for end in ("", "_high", "_low")]
    told = "at ten times that pace it ended {:.1f} points below `e2e` ({:.1f} to {:.1f}) and never got there"
    assert told.format(*below) in WORDS
    assert math.isnan(line["quality_s"])
    settings = next(p.detail for p in points if p.method == "speedyfeed" and p.detail)["method_settings"]
    assert settings["beta"] == pytest.approx(10 * SpeedyFeed.Settings().beta)
