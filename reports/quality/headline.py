"""The plain-language headline of a training run: who reaches end-to-end training's quality, and how much sooner."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from bench.results.identity import line_of
from bench.results.schema import RunInfo
from reports import numbers, words
from reports.document import Card, Story
from reports.quality.tables import STOPPED, between, difference, metric, points, time

Row = Mapping[str, Any]
BOUNDS = {"frozen": "its encoder stays as it was", "ids_only": "it reads no text"}
"""Other models that say what the content, and its fine-tuning, is worth."""


def tell(frames: TrainingFrames, info: RunInfo) -> Story:
    """Who gets to e2e's quality, case by case; all else of the first that e2e was trained on."""
    rows = frames.summary.to_dict("records")
    done = [row for row in rows if row["outcome"] == "ok"]
    if not done:
        planned = numbers.count(info.planned_records, "planned training")
        return Story("Nothing has been trained to its end", (f"Of {planned} not one has ended well.",))
    first = frames.metrics[0]
    judged = [row for row in done if numbers.exists(row["validation"])]
    if not judged:
        return Story(
            f"{metric(first)} is not defined on what was held out of {done[0]['workload']}",
            (*_undecidable(done, first), "Without it no training has a best, and none can be compared."),
        )
    reference = next((row for row in judged if row["method"] == REFERENCE), None)
    if reference is None and any(row["method"] == REFERENCE for row in done):
        return Story(
            f"{REFERENCE} has no {metric(first)} to be compared with on {_place(done[0])}",
            (*_undecidable(done, first), _protocol(frames)),
        )
    if reference is None:
        alone = judged[0]
        alone_reaches = f"{alone['label']} reaches {metric(first)} {points(alone[f'test_{first}'])} on {_place(alone)}"
        return Story(alone_reaches, ("Without e2e in the run there is nothing to compare it with.", _protocol(frames)))
    setting = line_of(reference).setting
    rows = [row for row in done if row["method"] != REFERENCE and line_of(row).setting == setting]
    arrived = [row for row in rows if _reached(row) and row["method"] not in BOUNDS]
    leaders = _leaders(arrived)
    sentences = [
        *_arrivals(done, first, info.config.get("train", {}).get("tolerance", 0.005)),
        *_cut_short(reference),
        *_qualities(leaders, reference, first),
        *_near(rows, leaders, first),
        *_bounds(rows, frames.metrics),
        *_undecidable(done, first),
        _protocol(frames),
    ]
    return Story(_headline(leaders, rows, reference), tuple(sentences), tuple(_card(row, first) for row in leaders))


def _undecidable(done: Sequence[Row], first: str) -> list[str]:
    """Why a split has no metric: it holds nothing right next to something wrong."""
    reasons = dict.fromkeys(row["undecidable"] for row in done if row["undecidable"])
    return [f"{metric(first)} is not defined on {reason}." for reason in reasons]


def _leaders(rows: Sequence[Row]) -> list[Row]:
    """The soonest of each exactness, exact ones first."""
    ordered = sorted(rows, key=lambda row: (row["exactness"] != "exact", -row["speed_up_quality"]))
    return list({row["exactness"]: row for row in reversed(ordered)}.values())[::-1]


def _place(row: Row) -> str:
    return f"{row['workload']} with {row['encoder']}"


def _headline(leaders: Sequence[Row], rows: Sequence[Row], reference: Row) -> str:
    if not rows:
        return f"Only e2e was trained on {_place(reference)}"
    if not leaders:
        return f"No method reached end-to-end training's quality on {_place(reference)}"
    best = leaders[0]
    if _includes_one(best):
        return (
            f"{best['label']} reaches end-to-end training's quality, but not measurably sooner, on {_place(reference)}"
        )
    if best["speed_up_quality"] < 1:
        sooner = any(row["speed_up_quality"] > 1 for row in leaders)
        who = "No exact method" if sooner else "No method"
        return f"{who} reached end-to-end training's quality sooner than it did itself, on {_place(reference)}"
    speed = numbers.speed_up(best, "speed_up_quality")
    return f"{best['label']} reaches end-to-end training's quality {speed} as fast on {_place(reference)}"


def _arrivals(done: Sequence[Row], first: str, tolerance: float) -> list[str]:
    """A sentence per case that e2e was trained on: who gets as far as e2e, how much sooner, and who never does."""
    cases = words.by_case(done)
    sentences = []
    for rows in cases.values():
        others = [row for row in rows if row["method"] != REFERENCE and row["goal_seeds"] > 0]
        if not others:
            continue
        got = [*_sooner(others), *_partly(others)]
        parts = [f"reached {'; '.join(got)}"] if got else []
        modules = [own[0]["cf_module"] for own in cases.values()]
        named = rows[0]["cf_module"] if len(set(modules)) == len(modules) else words.case(rows[0])
        parts += _never(others, got=bool(got))
        where = f"With {named}: " if len(cases) > 1 else ""
        sentences.append(
            f"{where}{REFERENCE}'s {metric(first)}, to within {100 * tolerance:g} points, is {'; '.join(parts)}."
        )
    return sentences


def _cut_short(reference: Row) -> list[str]:
    """A goal that e2e might have raised, had it been left to train."""
    limits = [STOPPED[each] for each in reference["stopped"].split(", ") if each != "patience"]
    if not limits:
        return []
    return [
        f"{REFERENCE} was ended by {words.listing(limits)} before its patience ran out: left to train, it may have "
        "come further, and others might have had further to go."
    ]


def _sooner(rows: Sequence[Row]) -> list[str]:
    reached = sorted((row for row in rows if _reached(row)), key=lambda row: -row["speed_up_quality"])
    if not reached:
        return []
    sentences = []
    for row in reached:
        spread = numbers.ratio_range(row["speed_up_quality_low"], row["speed_up_quality_high"])
        unsure = ", so not distinguishable from e2e" if _includes_one(row) else ""
        over = f" (95 % {spread}{unsure})" if spread else ""
        sentences.append(f"{numbers.speed_up(row, 'speed_up_quality')} as soon by {row['label']}{over}")
    alone = "" if numbers.exists(reached[0]["speed_up_quality_low"]) else ", by one seed"
    return [f"{words.listing(sentences)}{alone}"]


def _partly(rows: Sequence[Row]) -> list[str]:
    some = [row for row in rows if 0 < row["reached_seeds"] < row["goal_seeds"]]
    sentences = [f"by {row['label']} with only {row['reached_seeds']:g} of {row['goal_seeds']:g} seeds" for row in some]
    return [words.listing(sentences)] if sentences else []


def _never(rows: Sequence[Row], *, got: bool) -> list[str]:
    never = words.listing(row["label"] for row in rows if row["reached_seeds"] == 0)
    return [f"never {'by' if got else 'reached by'} {never}"] if never else []


def _reached(row: Row) -> bool:
    """Whether every seed got to e2e's quality."""
    return numbers.exists(row["speed_up_quality"])


def _includes_one(row: Row) -> bool:
    """Whether the interval of the speed-up to e2e's quality leaves open which of the two is sooner."""
    low, high = row["speed_up_quality_low"], row["speed_up_quality_high"]
    return numbers.exists(low) and low <= 1 <= high


def _qualities(leaders: Sequence[Row], reference: Row, first: str) -> list[str]:
    sentences = []
    for row in leaders:
        if not numbers.exists(row[f"difference_{first}"]):
            continue
        spread = between(row[f"difference_{first}_low"], row[f"difference_{first}_high"], signed=True)
        over = f" ({spread}, 95 % over {numbers.count(int(row['ok_seeds']), 'seed')})" if spread else ", one seed"
        sentences.append(
            f"{row['label']} ends at {metric(first)} {points(row[f'test_{first}'])} where e2e ends at "
            f"{points(reference[f'test_{first}'])}: {difference(row[f'difference_{first}'])} points{over}. Its best "
            f"came after {time(row['best_s'])} of training, e2e's after {time(reference['best_s'])}."
        )
    return sentences


def _near(rows: Sequence[Row], leaders: Sequence[Row], first: str) -> list[str]:
    """The stale line that ended soonest, where none of them got to e2e's quality with every seed."""
    stale = [row for row in rows if row["exactness"] == "stale" and numbers.exists(row[f"difference_{first}"])]
    if not stale or any(row["exactness"] == "stale" for row in leaders):
        return []
    row = max(stale, key=lambda row: row["speed_up_best"])
    return [
        f"{row['label']}, which is stale, has its best {numbers.speed_up(row, 'speed_up_best')} as soon and "
        f"{difference(row[f'difference_{first}'])} points from e2e's {metric(first)}."
    ]


def _bounds(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """What frozen encoders and bare ids reach: below that, fine-tuning a text model would be for nothing."""
    first = metrics[0]
    sentences = []
    for row in rows:
        if row["method"] in BOUNDS and numbers.exists(row[f"test_{first}"]):
            cold = row.get(f"test_cold_{first}")
            new = f", and {points(cold)} on items that training never met" if numbers.exists(cold) else ""
            quality = points(row[f"test_{first}"])
            sentences.append(f"{row['label']} ({BOUNDS[row['method']]}) ends at {quality}{new}.")
    return sentences


def _protocol(frames: TrainingFrames) -> str:
    first = metric(frames.metrics[0])
    return (
        "Wall-clock is that of training steps, the making of batches included; evaluation, checkpoints and set-up "
        f"are not in it. Quality is the test split's at the best {first} of the validation split."
    )


def _card(row: Row, first: str) -> Card:
    spread = between(row[f"difference_{first}_low"], row[f"difference_{first}_high"], signed=True)
    memory = numbers.gibibytes(row["memory_bytes"])
    if numbers.exists(row["memory_ratio"]):
        memory += f", {numbers.percent(row['memory_ratio'])} of e2e's"
    low, high = row["speed_up_quality_low"], row["speed_up_quality_high"]
    interval = numbers.ratio_range(low, high)
    against = difference(row[f"difference_{first}"]) + (f" ({spread})" if spread else "")
    return Card(
        label=row["label"],
        exactness=words.exactness(row),
        big=numbers.speed_up(row, "speed_up_quality"),
        explained=f"as fast as e2e to e2e's quality{f', 95 % interval {interval}' if interval else ''}",
        facts=(
            (metric(first), points(row[f"test_{first}"])),
            ("Against e2e's", against),
            ("Time to its best", f"{time(row['best_s'])}, {numbers.speed_up(row, 'speed_up_best')} as fast as e2e"),
            ("Peak memory", memory),
        ),
        case=words.case(row),
    )
