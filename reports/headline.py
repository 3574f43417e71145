"""The plain-language headline: which results lead, and the sentences that carry them honestly."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench.results.analysis.stats import Trust
from bench.results.analysis.summary import REFERENCE, UNIQUE_REFERENCE, Frames
from bench.results.identity import Line, Setting, line_of
from bench.results.schema import RunInfo
from reports import numbers, scaling, words
from reports.document import Card, Story

Row = Mapping[str, Any]
STALE = (
    "it works with encodings older than the encoder, so one of its steps is not worth one end-to-end step. Judge it by "
    "quality over time."
)
NOISE = 1.05
"""Beyond what it can be at most, a speed-up of one process a line may lie by so much and nothing is said of it."""


def tell(frames: Frames, info: RunInfo) -> Story:
    """Picks the best result on the most real input there is, and says what it does not show."""
    summary = frames.summary
    measured = summary[summary["outcome"] == "ok"]
    if measured.empty:
        return _nothing(summary, info)
    methods = measured[~measured["method"].isin([REFERENCE, UNIQUE_REFERENCE]) & measured["speed_up"].notna()]
    if methods.empty:
        if (scaled := _scaling(measured)) is not None:
            return scaled
        labels = words.listing(dict.fromkeys(measured["label"]))
        return Story(
            f"Nothing to compare: this run measured {labels}",
            ("A speed-up needs a method and e2e on the same case, with the same engine and precision.",),
        )
    first = _most_real(methods.to_dict("records"))
    rows = _against_fastest_engine(methods, summary, first)
    rows.sort(key=lambda row: (_may_be_one(row), -row["speed_up"]))
    leaders = list({row["exactness"]: row for row in reversed(rows)}.values())
    leaders.sort(key=lambda row: (row["exactness"] != "exact", _may_be_one(row), -row["speed_up"]))
    best = leaders[0]
    sentences = [
        _what(best, summary),
        *_interval(best),
        *_beyond_deduplication(measured),
        *_caveats(best, leaders),
        _provenance(first),
        *_rescued(summary),
    ]
    cards = tuple(_card(row, summary) for row in leaders)
    return Story(_headline(leaders, first), tuple(sentences), cards)


def _most_real(rows: Iterable[Row]) -> str:
    """The origin of the most real input among the rows."""
    return min(map(words.origin, rows), key=list(words.ORIGINS).index)


def _scaling(measured: pd.DataFrame) -> Story | None:
    """What several processes gain over one, for a run without e2e; None where no line has one of each."""
    every = measured.to_dict("records")
    by_line = {line_of(row): row for row in every}
    pairs = [(row, scaling.alone(row, by_line)) for row in every if row["world_size"] != 1]
    both = [(row, one, gain) for row, one in pairs if one and (gain := scaling.ratio(row, one, "users_per_s"))]
    if not both:
        return None
    first = _most_real(row for row, _, _ in both)
    real = [each for each in both if words.origin(each[0]) == first]
    real.sort(key=lambda each: (each[0]["exactness"] != "exact", -each[0]["world_size"], -each[2]))
    leaders = list({each[0]["exactness"]: each for each in reversed(real)}.values())[::-1]
    row, one, gain = leaders[0]
    shown = numbers.scattered(gain, scaling.scatter(row, one))
    sentences = [
        f"It trains {numbers.rate(row['users_per_s'], row['scatter'])} users per second, and one process "
        f"{numbers.rate(one['users_per_s'], one['scatter'])}; each process has as many users a step as the one alone.",
        "This run has no e2e on the same case, with the same engine and precision, so that no speed-up is known.",
        *([f"It is stale: {STALE}"] if row["exactness"] == "stale" else []),
        _provenance(first),
    ]
    cards = tuple(_scaling_card(*each) for each in leaders)
    users = f"{shown} the users per second of one process"
    return Story(
        f"{row['label']} on {words.processes(row)} trains {users} {_where(row, first)}", tuple(sentences), cards
    )


def _scaling_card(row: Row, one: Row, gain: float) -> Card:
    return Card(
        label=row["label"],
        exactness=words.exactness(row),
        big=numbers.scattered(gain, scaling.scatter(row, one)),
        explained=f"the users per second of one process, on {words.processes(row)}",
        facts=(
            ("Users per second", numbers.rate(row["users_per_s"], row["scatter"])),
            ("On one process", numbers.rate(one["users_per_s"], one["scatter"])),
            ("Repetition ratio", numbers.number(row["item_repetition_ratio"])),
            ("Time per step", f"{numbers.milliseconds(row['median_s'], row['scatter'])} ms"),
        ),
        case=words.case(row),
    )


def _against_fastest_engine(methods: pd.DataFrame, summary: pd.DataFrame, origin: str) -> list[dict[str, Any]]:
    """Of one origin, and per case only the engine whose e2e is fastest: a slow one's would flatter every method."""
    references = summary[(summary["method"] == REFERENCE) & summary["median_s"].notna()].to_dict("records")
    times = {line_of(row).setting: row["median_s"] for row in references}
    strongest: dict[Setting, float] = {}
    for setting, seconds in times.items():
        case = setting.but(engine="")
        strongest[case] = min(strongest.get(case, math.inf), seconds)
    rows = [(line_of(row).setting, row) for row in methods.to_dict("records") if words.origin(row) == origin]
    return [row for setting, row in rows if times[setting] <= 1.05 * strongest[setting.but(engine="")]]


def _nothing(summary: pd.DataFrame, info: RunInfo) -> Story:
    if summary.empty:
        sentence = f"The run holds no record of {numbers.count(info.planned_records, 'planned measurement')}."
        return Story("Nothing has been measured yet", (sentence,))
    outcomes = summary["outcome"].value_counts()
    parts = words.listing(f"{amount} {words.OUTCOMES[code]}" for code, amount in outcomes.items())
    sentence = (
        f"All {numbers.count(len(summary), 'line')} ended without a number: {parts}. The reasons are listed below."
    )
    return Story("Nothing was measured", (sentence,))


def _headline(leaders: list[dict[str, Any]], origin: str) -> str:
    """No more than the leading result's interval says; leaders: exact ones first."""
    best = leaders[0]
    where = _where(best, origin)
    if _may_be_one(best):
        spread = numbers.ratio_range(best["speed_up_low"], best["speed_up_high"])
        speed = f"{numbers.speed_up(best)}, 95 % interval {spread}"
        return f"{best['label']} is not distinguishable in speed from end-to-end training ({speed}) {where}"
    if best["speed_up"] < 1:
        faster = any(row["speed_up"] > 1 for row in leaders)
        return f"No {'exact ' if faster else ''}method was faster than end-to-end training {where}"
    return f"{best['label']} is {numbers.speed_up(best)} as fast as end-to-end training {where}"


def _where(row: Row, origin: str) -> str:
    place = {
        "real": f"on {row['workload']} with {row['encoder']}",
        "synthetic-log": f"on a synthetic log with {row['encoder']}",
        "random-weights": f"on {row['encoder']} with random weights",
    }[origin]
    return f"{place}, at a repetition ratio of {numbers.number(row['item_repetition_ratio'])}"


def _may_be_one(row: Row, name: str = "speed_up") -> bool:
    """Whether the interval of a ratio leaves open which of the two is faster."""
    return numbers.may_be_one(row[f"{name}_low"], row[f"{name}_high"])


def _reference(row: Row, summary: pd.DataFrame, method: str) -> dict[str, Any] | None:
    """The reference's row of the same case, engine and setting."""
    wanted = Line(line_of(row).setting, method)
    same = summary[summary["method"] == method].to_dict("records")
    return next((found for found in same if line_of(found) == wanted), None)


def _what(best: Row, summary: pd.DataFrame) -> str:
    reference = _reference(best, summary, REFERENCE)
    sentence = (
        f"A step of {best['label']} takes {_milliseconds(best)} ms where one of e2e takes {_milliseconds(reference)} ms"
    )

    if numbers.exists(best["memory_ratio"]) and reference:
        sentence += (
            f"; its peak memory is {numbers.gibibytes(best['memory_bytes'])},"
            f" {numbers.percent(best['memory_ratio'])} of e2e's {numbers.gibibytes(reference['memory_bytes'])}"
        )
    return sentence + "."


def _milliseconds(row: Row | None) -> str:
    return numbers.milliseconds(row["median_s"], row["scatter"]) if row else numbers.MISSING


def _interval(best: Row) -> list[str]:
    spread = numbers.ratio_range(best["speed_up_low"], best["speed_up_high"])
    if not spread:
        return ["It was measured in one block, so that the error of its speed-up is not known."]
    blocks = numbers.count(int(best["speed_up_blocks"]), "block")
    width = numbers.width(best["speed_up_half_width"])
    return [f"Over {blocks} of fresh processes the 95 % interval of its speed-up is {spread} ({width})."]


def _beyond_deduplication(measured: pd.DataFrame) -> list[str]:
    """That exact methods are faster than encoding each item once makes them, which a reader may take for a gain.

    A speed-up whose interval holds its repetition ratio says as much by itself.
    """
    lines = measured[(measured["exactness"] == "exact") & (measured["world_size"] == 1)]
    lines = lines[(lines["method"] != REFERENCE) & lines["speed_up"].notna() & lines["item_repetition_ratio"].notna()]
    beyond = lines["speed_up"] / lines["item_repetition_ratio"]
    faster = lines[(beyond > NOISE) & ~(lines["speed_up_low"] <= lines["item_repetition_ratio"])]
    if faster.empty:
        return []
    most = faster.loc[beyond[faster.index].idxmax()]
    share = (
        f"{len(faster)} of {numbers.count(len(lines), 'line')} of exact methods {'is' if len(faster) == 1 else 'are'}"
    )
    saved = "what smaller batches save besides it, as memory"
    if numbers.exists(most["speed_up_low"]):
        why = f"its interval lies beyond that ratio, so that it is no noise but {saved}"
    else:
        why = f"that is noise, which several processes tell (run.blocks=6), or {saved}"
    ratio = f"{numbers.speed_up(most)} at a repetition ratio of {numbers.number(most['item_repetition_ratio'])}"
    return [f"{share} faster than deduplication by itself can be, {most['label']} by most ({ratio}): {why}."]


def environment(trust: Trust | None) -> str:
    """What the canary says of the machine, in one or two sentences; empty where the run had none."""
    if trust is None:
        return ""
    limit = f"±{numbers.percent(trust.limit)}"
    spread = numbers.ratio_range(*(trust.canary.interval or (None, None)))
    found = f"e2e measured against itself in {numbers.count(trust.cases, 'case')}"
    if not spread:
        return f"The environment is not shown to be steady: {found} has one block only, so that its error is not known."
    measured = f"{found} gives {numbers.number(trust.canary.value, 4)}{numbers.TIMES}, 95 % interval {spread}"
    if trust.trusted:
        return f"The environment can be trusted: {measured}, within {limit}."
    return (
        f"The environment cannot be trusted: {measured}, which is not within {limit}. "
        "Every verdict on this run is INCONCLUSIVE; measure again on a quieter machine or with more blocks."
    )


def _caveats(best: Row, leaders: list[dict[str, Any]]) -> list[str]:
    """What the leading result preserves, and what inexact ones give up; exact methods lead where there are any."""
    sentences = []
    if best["exactness"] == "exact":
        condition = "" if best["dropout"] == "off" else " only with dropout off, which this run had on"
        sentences.append(f"It leaves end-to-end training's gradient unchanged{condition}{_beside_unique(best)}.")
    for row in leaders:
        speed = f"{row['label']} reaches {numbers.speed_up(row)}, but"
        if _may_be_one(row):
            speed = f"{row['label']} is not distinguishable in speed from e2e, and"
        if row["exactness"] == "stale":
            sentences.append(f"{speed} is stale: {STALE}")
        elif row["exactness"] == "other-model":
            sentences.append(f"{speed} trains another model: it is a bound and not a replacement.")
    return sentences


def _beside_unique(row: Row) -> str:
    if not numbers.exists(row["speed_up_unique"]):
        return ""
    if _may_be_one(row, "speed_up_unique"):
        return ", and is not distinguishable in speed from e2e_unique, which only deduplicates"
    return f", and runs at {numbers.speed_up(row, 'speed_up_unique')} the speed of e2e_unique, which only deduplicates"


def _provenance(origin: str) -> str:
    return {
        "real": "The interaction log, the texts and the encoder's weights are real.",
        "synthetic-log": "The encoder's weights are real; the interaction log is drawn at random.",
        "random-weights": "The encoder has the stated shape but random weights: time and memory are meaningful, "
        "losses are not.",
    }[origin]


def _rescued(summary: pd.DataFrame) -> list[str]:
    """Cases that e2e could not hold in memory and another method could."""
    saved = summary[(summary["reference_outcome"] == "oom") & (summary["outcome"] == "ok")]
    saved = saved[~saved["method"].isin([REFERENCE, UNIQUE_REFERENCE])]
    if saved.empty:
        return []
    parts = [f"{label} in {numbers.count(len(rows), 'case')}" for label, rows in saved.groupby("label", sort=False)]
    return [f"Where e2e ran out of memory, {words.listing(parts)} did not."]


def _card(row: Row, summary: pd.DataFrame) -> Card:
    reference = _reference(row, summary, REFERENCE)
    interval = row["interval_repetition_ratio"]
    time = f"{_milliseconds(row)} ms"
    memory = numbers.gibibytes(row["memory_bytes"])
    if reference:
        time += f", e2e {_milliseconds(reference)} ms"
    if numbers.exists(row["memory_ratio"]):
        memory += f", {numbers.percent(row['memory_ratio'])} of e2e's"
    spread = numbers.ratio_range(row["speed_up_low"], row["speed_up_high"])
    ratio = numbers.number(row["item_repetition_ratio"])
    if numbers.exists(interval):
        ratio += f", {numbers.number(interval)} per interval"
    return Card(
        label=row["label"],
        exactness=words.exactness(row),
        big=numbers.speed_up(row),
        explained=f"the speed of e2e{f', 95 % interval {spread}' if spread else ''}",
        facts=(
            ("Against e2e_unique", numbers.speed_up(row, "speed_up_unique")),
            ("Repetition ratio", ratio),
            ("Time per step", time),
            ("Peak memory", memory),
        ),
        case=words.case(row),
    )
