"""Sections of the page, found by file name; and what the one on measuring tells."""

from __future__ import annotations

import pytest

from bench.results.analysis.summary import frames
from bench.results.schema import PeakMemory, Spread, Telemetry
from bench.results.store import load
from reports import numbers, sections
from reports.page import render
from reports.sections import epochs, measuring, memory, processes
from tests.reports import _runs


def made(tmp_path, records):
    run = load(_runs.write(tmp_path, records))
    return measuring.make(run, frames(run.records))


def cells(section):
    (table,) = section.tables
    labels = [column.label for column in table.columns]
    return [dict(zip(labels, (cell.text for cell in row), strict=True)) for row in table.groups[0].rows]


def test_every_section_has_an_anchor_of_its_own(tmp_path):
    run = load(_runs.write(tmp_path, _runs.full()))
    shown = sections.make_all(run, frames(run.records))
    assert len({section.anchor for section in shown}) == len(shown)


def test_a_line_tells_what_it_cost_and_what_the_device_did(tmp_path):
    quiet = Telemetry(
        sm_clock_mhz=Spread(min=1900, median=1980, max=1980),
        power_w=500.0,
        temperature_c=61.0,
        energy_per_1000_interactions_j=7.5,
        throttle_reasons=("sw_power_cap",),
        foreign_processes=0,
    )
    hot = quiet.model_copy(update={"temperature_c": 80.0, "foreign_processes": 2, "throttle_reasons": ()})
    dropped = ("round 1: hw_thermal_slowdown", "round 4: hw_thermal_slowdown", "round 5: SM clock below 75 %")
    records = [
        _runs.record("single_step", block=0, overhead_s=0.2, telemetry=quiet, rounds=(0, 1, 2), samples_s=(1, 1, 1)),
        _runs.record(
            "single_step",
            block=1,
            overhead_s=0.4,
            telemetry=hot,
            rounds=(0, 2),
            samples_s=(1, 1),
            dropped_rounds=dropped,
        ),
        _runs.record("e2e", replica=1, overhead_s=0.1),
    ]
    section = made(tmp_path, records)
    line, canary = cells(section)
    assert line == {
        "Method": "single_step",
        "Harness": "0.300",
        "Rounds kept": "5",
        "Rounds dropped": f"2{numbers.TIMES} hw_thermal_slowdown and 1{numbers.TIMES} SM clock below 75 %",
        "SM clock": "1\u202f980",
        "Power": "500",
        "Hottest": "80",
        "Energy": "7.50",
        "Clock held back by": "sw power cap",
        "Other processes": "2",
    }
    assert canary["Method"] == "e2e (canary)"
    assert "0.200 s in the median, 0.400 s at most" in section.notes[0]


def test_the_load_of_a_processor_is_told_with_its_range(tmp_path):
    records = [_runs.record(block=block, telemetry=Telemetry(load=load)) for block, load in enumerate((0.04, 2.96))]
    section = made(tmp_path, records)
    assert cells(section) == [{"Method": "single_step", "Load": "0.0 to 3.0"}]
    assert section.notes[0].startswith("Load: tasks of others")
    assert len(section.notes) == 1, "no driver said anything"


def test_lead_ins_are_told_where_windows_had_them(tmp_path):
    def notes(**detail):
        return " ".join(made(tmp_path, [_runs.record(overhead_s=0.5, detail=detail)]).notes)

    assert "untimed steps of the same process, for 0.2 s" in notes(lead_in_s=0.2)
    assert "untimed" not in notes()


@pytest.mark.parametrize(
    ("settings", "reasons", "expected"),
    [
        (
            {"learning_rate": 1e-4, "measured_learning_rate": 1e-8},
            ("sw_power_cap",),
            "at a rate of 1e-08, which leaves",
        ),
        ({"learning_rate": 1e-4}, ("sw_power_cap",), "at a rate of 0.0001 on few batches"),
        ({"learning_rate": 1e-4}, (), None),
        ({}, ("sw_power_cap",), None),
    ],
    ids=["rate of its own", "trainings' rate", "no cap", "unknown"],
)
def test_the_rate_of_measured_steps_is_told_where_power_decides_the_clock(tmp_path, settings, reasons, expected):
    """A model that has learned its batches by heart draws less power."""
    header = _runs.info(config={"run": settings})
    records = [_runs.record(telemetry=Telemetry(throttle_reasons=reasons))]
    run = load(_runs.write(tmp_path, records, header))
    notes = " ".join(measuring.make(run, frames(run.records)).notes)
    assert expected is None or expected in notes
    assert ("moved the weights" in notes) == (expected is not None)


def test_columns_that_a_device_has_nothing_for_are_left_out(tmp_path):
    silent = Telemetry()  # a processor's
    section = made(tmp_path, [_runs.record(overhead_s=0.5, telemetry=silent), _runs.record("e2e", overhead_s=0.7)])
    assert [column.label for column in section.tables[0].columns] == ["Method", "Harness"]
    assert len(section.notes) == 1


def test_records_that_tell_nothing_make_no_section(tmp_path):
    assert made(tmp_path, [_runs.record()]) is None


def test_page_and_markdown_hold_the_section(tmp_path):
    rendered = render(_runs.write(tmp_path, [_runs.record(overhead_s=0.5), _runs.record("e2e", overhead_s=0.7)]))
    assert '<section id="measuring">' in rendered.page.read_text()
    assert '<a href="#measuring">Measuring</a>' in rendered.page.read_text()
    assert "## How it was measured" in rendered.markdown.read_text()


def test_a_canary_is_judged_by_the_limit_that_the_run_was_given(tmp_path):
    biased = _runs.paired(bias=0.05)
    header = _runs.info(config={**_runs.info().config, "gate": {"canary_limit": 0.25}})
    trusting = render(_runs.write(tmp_path / "set", biased, header)).page.read_text()
    strict = render(_runs.write(tmp_path / "auto", biased)).page.read_text()
    assert "The environment can be trusted" in trusting
    assert "within ±25 %" in trusting
    assert "The environment cannot be trusted" in strict


def test_epochs_stand_beside_the_papers(tmp_path):
    def line(method, seconds, steps=None):
        record = _runs.record(method, steps, workload="shape:toeic", ratio=None)
        detail = {"workload": {"items": 9336, "scale": 0.01}}
        return record.model_copy(update={"samples_s": (seconds,), "steps_per_epoch": 10, "detail": detail})

    run = load(_runs.write(tmp_path, [line("e2e", 2.0), line("single_step", 0.1), line("multi_step", 0.02, 10)]))
    section = epochs.make(run, frames(run.records))
    e2e, single, multi = cells(section)
    assert (e2e["Epoch"], single["Epoch"]) == ("33.3 min", "1.67 min")
    assert (single["Against e2e's epoch"], single["In the paper"]) == (f"20.0{numbers.TIMES}", f"5.70{numbers.TIMES}")
    assert (multi["In the paper"], e2e["In the paper"]) == (f"1.70{numbers.TIMES}", numbers.MISSING)
    assert any("projection" in note for note in section.notes)
    assert any("wall-clock to convergence" in note for note in section.notes)


def test_a_log_without_epochs_has_no_such_section(tmp_path):
    run = load(_runs.write(tmp_path, _runs.full()))
    assert epochs.make(run, frames(run.records)) is None


class TestProcesses:
    def test_a_run_of_single_processes_has_no_such_section(self, tmp_path):
        run = load(_runs.write(tmp_path, _runs.full()))
        assert processes.make(run, frames(run.records)) is None

    def test_a_line_tells_how_it_scales_what_it_shares_and_what_communication_costs(self, tmp_path):
        run = load(_runs.write(tmp_path, _runs.several_processes((16,), (1, 2))))
        section = processes.make(run, frames(run.records))
        (table,) = section.tables
        labels = [column.label for column in table.columns]
        found = {
            (group.title, row[0].text): dict(zip(labels, (cell.text for cell in row), strict=True))
            for group in table.groups
            for row in group.rows
        }
        assert len(found) == 3 * len(_runs.LINES)  # each its own, shared, and shared where it pays
        shared = next(
            row for (title, label), row in found.items() if "sharing items" in title and label == "single_step"
        )
        alone = next(
            row for (title, label), row in found.items() if "sharing items" not in title and label == "single_step"
        )
        assert shared["Against one process"] == f"3.17{numbers.TIMES}"  # 2 / (1.05 x 0.6)
        assert shared["Sharing items"] == f"1.67{numbers.TIMES}"
        assert alone["Sharing items"] == numbers.MISSING
        assert shared["Unique items"] == "1.60"  # 2 / 1.25
        assert shared["Peak memory"] == "2.00 GiB, 3.00 GiB"
        assert shared["Communication"].startswith(("3.", "4."))
        assert shared["Waiting"] == "2.0"  # the second process is done a fiftieth of a step earlier


def test_memory_splits_a_peak_into_what_stays_and_what_a_step_adds(tmp_path):
    gib = 2**30

    def line(method, peak, fixed):
        memory = PeakMemory(allocated=peak * gib, reserved=None, process=None)
        return _runs.record(method).model_copy(update={"peak_memory_bytes": memory, "fixed_memory_bytes": fixed * gib})

    run = load(_runs.write(tmp_path, [line("e2e", 21, 1), line("single_step", 6, 1)]))
    section = memory.make(run, frames(run.records))
    (table,) = section.tables
    assert [[cell.text for cell in row] for row in table.groups[0].rows] == [
        ["e2e", "21.0 GiB", "100", "1.00 GiB", "20.0 GiB", "100"],
        ["single_step", "6.00 GiB", "29", "1.00 GiB", "5.00 GiB", "25"],
    ]


def test_memory_that_is_kept_between_steps_has_a_column_where_any_is(tmp_path):
    peak = PeakMemory(allocated=2**30, reserved=None, process=None)
    plain = _runs.record("e2e", peak_memory_bytes=peak, fixed_memory_bytes=2**20)
    keeping = _runs.record("frozen", peak_memory_bytes=peak, fixed_memory_bytes=2**20, detail={"kept_bytes": 2**29})

    def table_of(*records):
        run = load(_runs.write(tmp_path, records))
        (table,) = memory.make(run, frames(run.records)).tables
        return table

    assert table_of(plain).columns[-1].label == "of e2e's"
    table = table_of(plain, keeping)
    assert table.columns[-1].label == "Kept between steps"
    assert [row[-1].text for row in table.groups[0].rows] == [numbers.MISSING, "512 MiB"]


def test_memory_of_a_processor_is_not_split(tmp_path):
    resident = PeakMemory(allocated=None, reserved=None, process=2**30)
    record = _runs.record().model_copy(update={"peak_memory_bytes": resident, "fixed_memory_bytes": 2**20})
    run = load(_runs.write(tmp_path, [record]))
    assert memory.make(run, frames(run.records)) is None


class TestOfHowManyBatches:
    """Ratio and projection say what they are made of."""

    def records(self, **detail):
        made = [_runs.record(method, steps_per_epoch=100, overhead_s=1.0) for method in ("e2e", "single_step")]
        return [record.model_copy(update={"detail": record.detail.model_copy(update=detail)}) for record in made]

    def told(self, tmp_path, records):
        run = load(_runs.write(tmp_path, records))
        found = {each.anchor: each for each in sections.make_all(run, frames(run.records))}
        projected = [row[-1].note for group in found["epochs"].tables[0].groups for row in group.rows]
        return projected, " ".join(found["measuring"].notes)

    def test_typical_ones(self, tmp_path):
        basis = {"ratio_batches": 256, "ratio_relative_error": 0.0123, "timed_batches": 3, "timed_typical": True}
        projected, notes = self.told(tmp_path, self.records(**basis))
        assert projected == ["3 batches of the log, the most typical of 256"] * 2
        assert "Repetition ratios are counted on 256 batches" in notes
        assert "at most 1.2 %" in notes

    def test_one_of_an_epoch(self, tmp_path):
        basis = {"ratio_batches": 1, "ratio_relative_error": 0.0, "timed_batches": 1, "timed_typical": False}
        projected, notes = self.told(tmp_path, self.records(**basis))
        assert projected == ["1 batch of the log"] * 2
        assert "counted on 1 batch of" in notes
        assert "at most 0 %" in notes

    def test_a_record_that_does_not_say(self, tmp_path):
        projected, notes = self.told(tmp_path, self.records())
        assert projected == ["", ""]
        assert "Repetition ratios" not in notes
