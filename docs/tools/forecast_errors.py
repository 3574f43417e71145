"""How far off `gram-bench plan` is: fitted on a few lines of measured runs, held against all their others.

    python -m docs.tools.forecast_errors RUN... [--costs FOLDER]

RUN: run directories, read together. Lines of one device, precision, engine, encoder and CF module are calibrated on as
many of them as `gram-bench calibrate` measures, likewise spread over methods and sizes; the rest are forecast as `plan`
forecasts them, from their workload's own counts. A line that does what a fitted one does (the same batch's unique items
pass the encoder in e2e_unique and single_step) is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from bench.configuration.case import Case
from bench.configuration.config import Config, restore
from bench.configuration.sweep import MethodLine, WorkItem
from bench.errors import BenchError
from bench.planning import coefficients, design, shapes
from bench.planning.calibration import Measured, fitted, key_of, rates_of
from bench.planning.coefficients import Calibration, Chosen
from bench.planning.forecast import Counted, Engine, Forecaster, count_case, step_of
from bench.planning.memory import step_memory
from bench.planning.shapes import CFShape, EncoderShape
from bench.planning.work import METHODS, step_work
from bench.results import store
from bench.results.schema import Record, RunInfo
from docs.tools.gallery import table

MATRIX_FLOPS_PER_S = 7.8e14
"""Of a device of whose matrix rate a run says nothing; fits are held near it but lightly."""
COPY_BYTES_PER_S = {"NVIDIA H100 80GB HBM3": 2.9e12, "NVIDIA H200": 4.1e12}
"""Bytes that a copy moves: a run says nothing of them either."""
PASSES_ALIKE = {"e2e_unique": "single_step"}


@dataclass(frozen=True)
class Line:
    """A measured line. seconds: per step; peak_bytes: of the allocator."""

    info: RunInfo
    config: Config
    item: WorkItem
    tier: str | None
    seconds: float
    peak_bytes: float
    matrix_flops_per_s: float | None


@dataclass(frozen=True)
class Stepped:
    """A line whose step's terms are reckoned."""

    line: Line
    counted: Counted
    shape: EncoderShape
    cf: CFShape
    measured: Measured


@dataclass(frozen=True)
class Error:
    """A forecast over what was measured, less 1. covered: whether the interval held the time."""

    item: WorkItem
    step: float
    speed_up: float | None
    memory: float
    covered: bool


@dataclass(frozen=True)
class Group:
    """Lines of one calibration."""

    calibration: Calibration
    errors: tuple[Error, ...]


def lines_of(folders: Iterable[Path]) -> tuple[list[Line], Counter[str]]:
    """Measured lines, a line's blocks and repeats as one; and how many records are none, by why."""
    found: dict[tuple[str, WorkItem], list[tuple[RunInfo, Config, Record]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for folder in folders:
        run = store.load(folder)
        config = restore(run.info.config)
        for record in run.records:
            why = _not_forecast(record)
            if why is not None:
                left_out[why] += 1
                continue
            case = Case(**record.case)  # type: ignore[arg-type] # as a run wrote them
            item = WorkItem(case, MethodLine(record.method, record.engine, record.accumulation_steps))
            found[run.info.environment.device, item].append((run.info, config, record))
    return [_line(item, same) for (_, item), same in found.items()], left_out


def _not_forecast(record: Record) -> str | None:
    if record.outcome != "ok":
        return record.outcome
    if record.replica:
        return "canary"
    if record.method not in METHODS:
        return f"method {record.method}"
    if record.accumulation_steps == "auto":
        return "accumulation_steps auto"
    if record.case["world_size"] != 1:
        return "several processes"
    if str(record.case["workload"]).partition(":")[0] == "pictures":
        return "pictures"
    return None if record.peak_memory_bytes.allocated else "no peak memory"


def _line(item: WorkItem, same: Sequence[tuple[RunInfo, Config, Record]]) -> Line:
    info, config, record = same[0]
    rates = [each.matrix_flops_per_s for _, _, each in same if each.matrix_flops_per_s]
    return Line(
        info,
        config,
        item,
        record.tier,
        statistics.median(statistics.median(each.samples_s) for _, _, each in same),
        max(float(each.peak_memory_bytes.allocated or 0) for _, _, each in same),
        statistics.median(rates) if rates else None,
    )


def groups_of(lines: Iterable[Line]) -> list[list[Line]]:
    """Those that one calibration can serve, in the order of the runs."""
    found: dict[tuple[object, ...], list[Line]] = defaultdict(list)
    for line in lines:
        case = line.item.case
        of = (case.precision, case.encoder, case.layers, case.adapter, case.cf_module)
        found[line.info.environment.device, line.item.line.engine, *of].append(line)
    return list(found.values())


def chosen(stepped: Sequence[Stepped]) -> list[Stepped]:
    """As many of each method as a calibration measures, at sizes as far apart as there are."""
    wanted = Counter(probe.method for probe in design.PROBES)
    found = []
    for method, number in wanted.items():
        own = sorted(
            (each for each in stepped if each.line.item.line.method == method),
            key=lambda each: each.measured.work.product_flops,
        )
        places = np.linspace(0, len(own) - 1, min(number, len(own))).round().astype(int)
        found += [own[place] for place in dict.fromkeys(places.tolist())]
    return found


def stepped_of(lines: Sequence[Line]) -> list[Stepped]:
    """The lines of one group. Counts each case once, by the workload's own batches."""
    by_case: dict[Case, list[Line]] = defaultdict(list)
    for line in lines:
        by_case[line.item.case].append(line)
    found, with_kept = [], {}
    loaded = shapes.load(lines[0].config, lines[0].item.case)
    for case, own in by_case.items():
        config, engine = own[0].config, own[0].item.line.engine
        counted, workload, _, _ = count_case(config, case, loaded, (case.batch_size,), [each.item.line for each in own])
        if case.text_length not in with_kept:
            shape = shapes.encoder_shape(config, case, engine, loaded)
            with_kept[case.text_length] = shapes.with_kept(shape, config, case, workload.table)
        shape = with_kept[case.text_length]
        cf = shapes.cf_shape(config, case, shape.width)
        for line in own:
            step = step_of(config, case, counted, shape, cf, line.item.line, case.batch_size)
            measured = Measured(line.item, step_work(step), line.seconds, step_memory(step).peak, line.peak_bytes)
            found.append(Stepped(line, counted, shape, cf, measured))
    return found


def held_against(lines: Sequence[Line]) -> Group:
    """One group: fitted, and all that the fit has not seen forecast. Raises ValueError for fewer than three lines."""
    stepped = stepped_of(lines)
    fit = chosen(stepped)
    first = stepped[0]
    info = first.line.info
    rates = [each.line.matrix_flops_per_s for each in stepped if each.line.matrix_flops_per_s]
    matrix = statistics.median(rates) if rates else MATRIX_FLOPS_PER_S
    copied = COPY_BYTES_PER_S.get(info.environment.device, max(COPY_BYTES_PER_S.values()))
    made = fitted(
        key_of(first.line.config, first.line.item.case, first.shape, first.line.item.line.engine, info.environment),
        [each.measured for each in fit],
        rates_of(1 / matrix, 1 / copied, info.environment.device_kind),
        0.0,
        info.environment.device_memory_bytes,
        sum(each.measured.seconds for each in fit),
        datetime.fromisoformat(info.started_at),
    )
    seen = {_does(each.line.item) for each in fit}
    e2e = {each.line.item.case: each.line.seconds for each in stepped if each.line.item.line.method == "e2e"}
    unseen = [each for each in stepped if _does(each.line.item) not in seen]
    return Group(made, tuple(_error(each, made, e2e.get(each.line.item.case)) for each in unseen))


def _does(item: WorkItem) -> WorkItem:
    """The line that stands for all whose passes are the same."""
    return replace(item, line=replace(item.line, method=PASSES_ALIKE.get(item.line.method, item.line.method)))


def _error(stepped: Stepped, calibration: Calibration, e2e_s: float | None) -> Error:
    line, case = stepped.line, stepped.line.item.case
    engine = Engine(line.item.line.engine, stepped.shape, Chosen(calibration, True, (), ""))
    caster = Forecaster(line.config, case, stepped.counted, stepped.cf, [engine], math.inf)
    told = caster.line(line.item.line, case.batch_size)
    speed_up = None
    if e2e_s is not None and line.item.line.method != "e2e":
        speed_up = told.speed_up.value / (e2e_s / line.seconds) - 1
    return Error(
        line.item,
        told.step_s.value / line.seconds - 1,
        speed_up,
        told.peak_bytes.value / line.peak_bytes - 1,
        told.step_s.low <= line.seconds <= told.step_s.high,
    )


def summary(group: Group) -> list[str]:
    """A group's cells in the table of `COLUMNS`."""
    key, errors = group.calibration.key, group.errors
    steps = np.abs([each.step for each in errors])
    speed_ups = np.abs([each.speed_up for each in errors if each.speed_up is not None])
    memory = np.array([each.memory for each in errors])
    return [
        f"{key.device}, `{key.engine}`, {key.family} {key.width}",
        str(len(group.calibration.samples)),
        str(len(errors)),
        f"{np.median(steps):.1%} / {np.quantile(steps, 0.95):.1%} / {steps.max():.1%}",
        f"{np.median(speed_ups):.1%} / {speed_ups.max():.1%}" if len(speed_ups) else "",
        f"{np.median(np.abs(memory)):.1%} / {max(0.0, -float(memory.min())):.1%}",
        f"{sum(each.covered for each in errors)} of {len(errors)}",
    ]


COLUMNS = [
    "lines of", "fitted", "unseen", "step time: median / 95th / worst", "speed-up: median / worst",
    "memory: median / worst under", "within 90 % intervals",
]  # fmt: skip


def main() -> None:
    """Prints a table, the worst lines of each group, and what could not be forecast; keeps coefficients if asked."""
    parser = argparse.ArgumentParser(prog="python -m docs.tools.forecast_errors", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--costs", type=Path, help="folder for the coefficients of each group")
    parser.add_argument("--worst", type=int, default=3, help="lines to name of each group, the worst by each figure")
    asked = parser.parse_args()
    lines, left_out = lines_of(asked.runs)
    groups = []
    for own in groups_of(lines):
        try:
            groups.append(held_against(own))
        except (ValueError, BenchError) as error:
            left_out[f"{own[0].item.line.engine} {own[0].item.case.encoder}: {error}"] += len(own)
    print(table(COLUMNS, [summary(group) for group in groups if group.errors]))
    for group in groups:
        print()
        for each in worst(group.errors, asked.worst):
            speed_up = "" if each.speed_up is None else f", speed-up {each.speed_up:+.1%}"
            print(f"{each.item}: step {each.step:+.1%}{speed_up}, memory {each.memory:+.1%}")
        if asked.costs is not None:
            print(coefficients.keep(group.calibration, asked.costs))
    for why, number in left_out.items():
        print(f"left out: {number} records ({why})")


def worst(errors: Sequence[Error], number: int) -> list[Error]:
    """Those furthest off in time, and those whose memory is furthest below."""
    by_time = sorted(errors, key=lambda each: -abs(each.step))[:number]
    by_memory = sorted(errors, key=lambda each: each.memory)[:number]
    return list(dict.fromkeys([*by_time, *by_memory]))


if __name__ == "__main__":
    main()
