"""A pytest plugin: the measured lines of a run as rows of pytest-benchmark, so that its files and its CI plugins work.

    pytest tests/benchmarks --gram-run runs/latest --benchmark-json rows.json

A group is a case, a test is a method on it. Nothing is measured here: the run's samples are replayed through a clock
that each row sets, so that pytest-benchmark's own statistics come out as if it had taken them. They pool the blocks
and know nothing of pairs; the speed-up with its interval, memory and repetition are in `extra_info`, the run's
machine in `machine_info`. A line without a measurement is a skipped test with its reason.

pytest-benchmark's `--benchmark-compare-fail` is not the gate, and must not be taken for one: it compares means of
absolute times, which drift with the machine, it knows no uncertainty, and it ends with 0 where there is nothing to
compare: when a case was renamed, or when every one was skipped. `gram-bench gate` fails there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from bench.results import store
from bench.results.analysis import lines as line_results
from bench.results.analysis.lines import LineResult
from bench.results.schema import Record

OPTION = "--gram-run"
FIXTURE = "measured_row"
DEFAULT_RUN = Path("runs/latest")
_RUN = pytest.StashKey["store.LoadedRun | None"]()


@dataclass(frozen=True)
class Row:
    """One line of a run with everything that was sampled of it."""

    line: LineResult
    records: tuple[Record, ...]

    @property
    def samples_s(self) -> tuple[float, ...]:
        """Seconds per step, of all blocks."""
        return tuple(sample for record in self.records if record.outcome == "ok" for sample in record.samples_s)

    @cached_property
    def clock(self) -> ReplayClock:
        """The timer that this row's samples pass on."""
        return ReplayClock(self.samples_s)

    def extra_info(self) -> dict[str, Any]:
        """What pytest-benchmark has no column for."""
        line, speed_up = self.line, self.line.speed_up
        interval = speed_up.interval if speed_up else None
        steps = [record.steps_per_sample for record in self.records if record.steps_per_sample]
        return {
            "case": line.case,
            "method": line.method,
            "engine": line.engine,
            "accumulation_steps": line.accumulation_steps,
            "exactness": self.records[0].exactness,
            "speed_up": speed_up.value if speed_up else None,
            "speed_up_low": interval[0] if interval else None,
            "speed_up_high": interval[1] if interval else None,
            "blocks": line.blocks,
            "failed_blocks": line.failed_blocks,
            "item_repetition_ratio": line.item_repetition_ratio,
            "peak_memory_bytes": line.peak_memory_bytes.model_dump(),
            "steps_per_sample": fmean(steps) if steps else None,
        }


def rows(records: Sequence[Record]) -> tuple[Row, ...]:
    """Every line of a run; the canary's replica is none."""
    found = line_results.lines(records)
    own: dict[Any, list[Record]] = {line.line: [] for line in found}
    for record in records:
        if record.replica == 0:
            own[record.line].append(record)
    return tuple(Row(line, tuple(own[line.line])) for line in found)


class ReplayClock:
    """A timer that does not move but for what is replayed: each sample begins at 0, so that it comes out unrounded."""

    def __init__(self, samples_s: Sequence[float]) -> None:
        self._left = iter(samples_s)
        self._now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self._now

    def rewind(self) -> None:
        """Before a sample."""
        self._now = 0.0

    def advance(self) -> None:
        """Lets the next sample's time pass."""
        self._now = next(self._left)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--gram-run`."""
    parser.getgroup("gram-bench").addoption(
        OPTION, metavar="RUN_DIR", type=Path, help=f"The run whose measurements become rows; {DEFAULT_RUN} if left out."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Reads the run once; raises pytest.UsageError where one is asked for and is none."""
    asked = config.getoption(OPTION)
    run_dir = asked or DEFAULT_RUN
    if asked is None and not (run_dir / store.INFO_FILE).is_file():
        config.stash[_RUN] = None
        return
    try:
        config.stash[_RUN] = store.load(run_dir)
    except store.ResultsError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per line of the run for every test that asks for `measured_row`."""
    if FIXTURE not in metafunc.fixturenames:
        return
    run = metafunc.config.stash[_RUN]
    if run is None:
        why = f"no run to replay: give {OPTION} RUN_DIR"
        metafunc.parametrize(FIXTURE, [pytest.param(None, marks=pytest.mark.skip(reason=why), id="none")])
        return
    metafunc.parametrize(FIXTURE, [_parameter(row) for row in rows(run.records)])


def _parameter(row: Row) -> Any:
    marks = [pytest.mark.benchmark(group=row.line.case_title, timer=row.clock)]
    if not row.samples_s:
        reason = f"{row.line.outcome}: {row.line.reason or 'no reason was recorded'}"
        marks.append(pytest.mark.skip(reason=reason))
    return pytest.param(row, marks=marks, id=f"{row.line.label} {row.line.case_title}")


def replay(benchmark: Any, row: Row) -> None:
    """Lets pytest-benchmark see the row's samples, one round each."""
    benchmark.extra_info.update(row.extra_info())
    benchmark.pedantic(row.clock.advance, setup=row.clock.rewind, rounds=len(row.samples_s))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds the machine that the run was measured on, which need not be this one."""
    run = config.stash[_RUN]
    if run is not None:
        machine_info["gram_bench"] = {
            "run_id": run.info.run_id,
            "started_at": run.info.started_at,
            **run.info.environment.model_dump(mode="json"),
        }
