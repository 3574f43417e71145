"""The run directory survives crashes, full disks and damage, and says so in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.results import store
from bench.results.schema import (
    Environment,
    Inputs,
    Loss,
    PeakMemory,
    Rank,
    Record,
    RunInfo,
    Spread,
    Telemetry,
    Throughput,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "record.json"
INFO = RunInfo(
    run_id="20261123-101500-quick",
    started_at="2026-11-23T10:15:00Z",
    command=("gram-bench", "run"),
    preset="quick",
    config={"run": {"seed": 0}},
    environment=Environment(
        device="a processor", device_kind="cpu", cpu="a processor", cpu_cores=2, host_memory_bytes=1, os="x", python="3"
    ),
    planned_records=4,
)


def record(block: int = 0, **changes) -> Record:
    values = {
        "case": {"workload": "synthetic", "batch_size": 16, "text_length": 32, "precision": "float32"},
        "method": "single_step",
        "engine": "eager",
        "block": block,
        "exactness": "exact",
        "outcome": "ok",
        "samples_s": (0.1, 0.11),
        "detail": {"output": "Zürich\n“quoted”"},
    }
    return Record(**(values | changes))


@pytest.fixture
def run_dir(tmp_path):
    directory = store.create_run_dir(tmp_path, "quick")
    store.write_info(directory, INFO)
    return directory


def test_what_is_appended_is_loaded(run_dir):
    records = [record(block) for block in range(3)]
    for each in records:
        store.append(run_dir, each)
    loaded = store.load(run_dir)
    assert loaded.records == tuple(records)
    assert loaded.info == INFO
    assert loaded.warnings == ()
    assert (run_dir / "results.jsonl").read_bytes().count(b"\n") == 3


def test_a_run_without_measurements_loads_empty(run_dir):
    assert store.load(run_dir).records == ()


def test_run_ids_are_the_time_in_utc_and_unique(tmp_path):
    now = datetime(2026, 11, 23, 12, 15, tzinfo=timezone(timedelta(hours=2)))
    names = [store.create_run_dir(tmp_path, "quick", now).name for _ in range(3)]
    assert names == ["20261123-101500-quick", "20261123-101500-quick-2", "20261123-101500-quick-3"]


def test_a_run_id_is_always_one_plain_folder(tmp_path):
    """A preset's name comes from a file name and must not climb out of the base."""
    directory = store.create_run_dir(tmp_path, "../../my preset", datetime(2026, 1, 1, tzinfo=UTC))
    assert directory.parent == tmp_path
    assert directory.name == "20260101-000000-my-preset"


def test_latest_points_to_the_newest_run(tmp_path):
    first = store.create_run_dir(tmp_path, "a", datetime(2026, 1, 1, tzinfo=UTC))
    assert (tmp_path / "latest").resolve() == first.resolve()
    second = store.create_run_dir(tmp_path, "b", datetime(2026, 1, 2, tzinfo=UTC))
    assert (tmp_path / "latest").resolve() == second.resolve()
    assert not os.path.isabs(os.readlink(tmp_path / "latest")), "the base folder may be moved"
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name, "latest"]


def test_a_folder_named_latest_is_left_alone(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").write_text("x")
    assert store.create_run_dir(tmp_path).is_dir()
    assert (tmp_path / "latest" / "mine").read_text() == "x"
    assert not list(tmp_path.glob(".latest*"))


def test_a_base_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(store.UnwritableResults, match=r"runs.*cannot write"):
        store.create_run_dir(tmp_path / "runs")


def test_truncation_anywhere_in_the_last_two_records_keeps_all_complete_ones(run_dir):
    """The crash test: whatever a crash leaves of the last lines, nothing complete is lost and nothing else appears.

    Around the ends of lines, where what is left changes in kind, at every byte; between them at every 17th.
    """
    records = [record(block) for block in range(4)]
    for each in records:
        store.append(run_dir, each)
    path = run_dir / "results.jsonl"
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    around = {end + near for end in ends for near in range(-4, 5)}
    for length in sorted(around.union(range(ends[1], len(content), 17)).intersection(range(ends[1], len(content) + 1))):
        path.write_bytes(content[:length])
        complete = sum(end - 1 <= length for end in ends)
        half = content[:length][max([0, *(end for end in ends if end <= length)]) :]
        loaded = store.load(run_dir)
        assert loaded.records == tuple(records[:complete]), length
        assert bool(loaded.warnings) == bool(half and length + 1 not in ends), length
        store.append(run_dir, record(99))
        resumed = store.load(run_dir)
        assert resumed.records == (*records[:complete], record(99)), length
        assert resumed.warnings == (), "append cuts off what a crash left"


@settings(max_examples=60)
@given(
    line=st.integers(0, 2),
    damage=st.sampled_from([b"", b"{", b"{}", b"\x00\x00", b"[1]", b"nonsense", b"\xff\xfe", b"null"]),
)
def test_a_damaged_line_that_is_not_the_last_is_named(tmp_path_factory, line, damage):
    directory = tmp_path_factory.mktemp("run")
    store.write_info(directory, INFO)
    lines = [record(block).model_dump_json().encode() for block in range(4)]
    lines[line] = damage
    (directory / "results.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(store.DamagedResults) as caught:
        store.load(directory)
    assert caught.value.line == line + 1
    assert f"results.jsonl, line {line + 1}:" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"schema_version": 3}, "schema version 3, while this program reads 2"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"block": -1}, "block"),
    ],
)
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_whole_last_line_that_is_no_record_is_damage_and_not_a_crash(run_dir, change, why, ending):
    store.append(run_dir, record())
    path = run_dir / "results.jsonl"
    values = json.loads(record(1).model_dump_json()) | change
    path.write_bytes(path.read_bytes() + json.dumps(values).encode() + ending)
    with pytest.raises(store.DamagedResults, match=why) as caught:
        store.load(run_dir)
    assert caught.value.line == 2


def test_a_repeated_key_keeps_the_last_and_warns(run_dir):
    """Measuring a failed case again is how it is repaired; the file itself is append-only."""
    store.append(run_dir, record(outcome="error", reason="killed", samples_s=()))
    store.append(run_dir, record(1))
    store.append(run_dir, record())
    loaded = store.load(run_dir)
    assert loaded.records == (record(), record(1))
    assert len(loaded.warnings) == 1
    assert "line 3" in loaded.warnings[0]
    assert "line 1" in loaded.warnings[0]


def test_no_run_json_is_not_a_run_directory(tmp_path):
    with pytest.raises(store.ResultsError, match="not a run directory"):
        store.load(tmp_path)
    with pytest.raises(store.ResultsError, match="not a run directory"):
        store.load(tmp_path / "nowhere")


def test_a_damaged_run_json_names_its_line(run_dir):
    path = run_dir / "run.json"
    path.write_text(path.read_text().replace('"preset": "quick"', '"preset": '))
    with pytest.raises(store.DamagedResults, match=r"run\.json, line \d") as caught:
        store.load(run_dir)
    assert caught.value.line > 1


_FILL = """
import resource, sys
from pathlib import Path
from bench.results import store
from bench.results.schema import Record
run_dir = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
for block in range(1000):
    record = Record(case={"a": 1}, method="e2e", engine="eager", block=block, exactness="exact", outcome="ok")
    try:
        store.append(run_dir, record)
    except store.UnwritableResults as error:
        print(block)
        print(error)
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit")
@pytest.mark.parametrize("room", [1500, 1777, 2048])
def test_a_full_disk_is_a_clear_error_and_leaves_every_earlier_record(run_dir, room):
    """The limit on the file's size stands in for the disk; it cuts a write in the middle just as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(run_dir), str(room)], capture_output=True, text=True, check=True, timeout=300
    )
    written, message = done.stdout.splitlines()
    assert "cannot write" in message
    assert "results.jsonl" in message
    loaded = store.load(run_dir)
    assert len(loaded.records) == int(written) > 0
    assert loaded.warnings == ()
    assert (run_dir / "results.jsonl").read_bytes().endswith(b"\n")


def test_an_unwritable_place_is_a_clear_error(run_dir):
    (run_dir / "results.jsonl").mkdir()
    with pytest.raises(store.UnwritableResults, match=r"results\.jsonl: cannot write"):
        store.append(run_dir, record())
    with pytest.raises(store.UnwritableResults, match=r"run\.json: cannot write"):
        store.write_info(run_dir / "run.json", INFO)  # a file is no folder
    with pytest.raises(store.ResultsError, match="cannot read"):
        store.load(run_dir)


def test_a_diverged_loss_is_stored_and_read(run_dir):
    """A loss that is not finite must not turn the file into damage."""
    store.append(run_dir, record(loss=Loss(first=1.0, last=float("nan"))))
    store.append(run_dir, record(1, loss=Loss(first=float("inf"), last=float("-inf"))))
    first, second = store.load(run_dir).records
    assert first.loss.last != first.loss.last
    assert second.loss == Loss(first=float("inf"), last=float("-inf"))
    for line in (run_dir / "results.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_loading_takes_as_long_as_there_are_records(run_dir):
    """Five thousand take five times as long as one thousand, and not 25 times."""
    took_s = []
    for count in (1_000, 5_000):
        with open(run_dir / "results.jsonl", "w") as file:
            file.writelines(record(block).model_dump_json() + "\n" for block in range(count))
        started = time.process_time()
        assert len(store.load(run_dir).records) == count
        took_s.append(time.process_time() - started)
    assert took_s[1] < 12 * took_s[0]


class TestBlocks:
    """A paired block is there whole or not at all."""

    def lines(self, run_dir: Path) -> list[tuple[str, int]]:
        return [(each.method, each.block) for each in store.load(run_dir).records]

    def test_its_records_say_how_many_they_are(self, run_dir):
        written = store.append_block(run_dir, [record(), record(method="e2e"), record(method="e2e", replica=1)])
        assert store.load(run_dir).records == written
        assert {each.block_records for each in written} == {3}

    @pytest.mark.parametrize("left", [1, 2])
    def test_a_half_written_one_is_dropped_and_then_overwritten(self, run_dir, left):
        methods = ("e2e", "e2e_unique", "single_step")
        for block in range(2):
            store.append_block(run_dir, [record(block, method=method) for method in methods])
        path = run_dir / store.RECORDS_FILE
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: 3 + left]))
        loaded = store.load(run_dir)
        assert [each.block for each in loaded.records] == [0, 0, 0]
        assert loaded.warnings == (
            f"{path}, line 4: dropped the last block, {left} of 3 records; resume the run to measure it again.",
        )
        store.append_block(run_dir, [record(1, method=method) for method in methods])
        assert path.read_bytes() == b"".join(lines)
        assert store.load(run_dir).warnings == ()

    def test_a_whole_one_stays_when_the_next_is_half(self, run_dir):
        """The blocks of another case may have the same number and as many records."""
        for text_length in (32, 64):
            case = {**record().case, "text_length": text_length}
            store.append_block(run_dir, [record(case=case, method=method) for method in ("e2e", "single_step")])
        path = run_dir / store.RECORDS_FILE
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
        assert self.lines(run_dir) == [("e2e", 0), ("single_step", 0)]
        store.append(run_dir, record(7))
        assert self.lines(run_dir) == [("e2e", 0), ("single_step", 0), ("single_step", 7)]

    def test_a_block_measured_again_replaces_the_first(self, run_dir):
        for samples in ((1.0,), (2.0,)):
            store.append_block(run_dir, [record(method=m, samples_s=samples) for m in ("e2e", "single_step")])
        assert [each.samples_s for each in store.load(run_dir).records] == [(2.0,)] * 2

    def test_a_sample_without_its_round_is_no_record(self):
        with pytest.raises(ValidationError, match="2 samples of 1 rounds"):
            record(schedule="interleaved", rounds=(0,))


def test_the_format_is_the_one_of_the_golden_file():
    """A change of the stored form must be meant: raise SCHEMA_VERSION, extend the format history, renew the file."""
    full = Record(
        case={
            "workload": "movielens",
            "encoder": "minilm",
            "layers": 2,
            "batch_size": 16,
            "history_length": 50,
            "text_length": 32,
            "item_repetition_ratio": None,
            "precision": "float32",
            "cf_module": "dkt",
            "world_size": 2,
            "deduplicate": "global",
            "adapter": "none",
        },
        method="multi_step",
        engine="eager",
        accumulation_steps=16,
        block=0,
        replica=1,
        exactness="stale",
        outcome="ok",
        inputs=Inputs(log={"movies.db": "0f"}, encoder={"weights": "1f"}),
        tier="padded",
        why_no_faster_tier="packed: model type mpnet has position or attention rules of its own",
        samples_s=(0.25, 0.5),
        steps_per_sample=16,
        device_samples_s=(0.25, 0.5),
        schedule="interleaved",
        rounds=(0, 2),
        dropped_rounds=("round 1: hw_thermal_slowdown",),
        block_records=5,
        overhead_s=0.5,
        telemetry=Telemetry(
            sm_clock_mhz=Spread(min=1695.0, median=1980.0, max=1980.0),
            power_w=500.0,
            energy_j=100.0,
            energy_per_1000_interactions_j=7.5,
            temperature_c=60.0,
            throttle_reasons=("sw_power_cap",),
            foreign_processes=0,
            process_memory_bytes=4,
            load=0.5,
        ),
        warmup_steps=16,
        setup_s=1.5,
        users=16.0,
        item_slots=880.0,
        unique_items=568.0,
        item_repetition_ratio=1.549,
        steps_per_epoch=77,
        interval_unique_items=1100.0,
        interval_repetition_ratio=12.8,
        real_tokens=17600.0,
        encoded_tokens=1375.0,
        padded_tokens=2200.0,
        useful_flops=1e9,
        matrix_flops_per_s=1e11,
        cf_step_s=0.125,
        fixed_memory_bytes=1,
        peak_memory_bytes=PeakMemory(allocated=1, reserved=2, process=3),
        throughput_per_s=Throughput(users=64.0, item_slots=3520.0, real_tokens=70400.0),
        loss=Loss(first=1.609, last=1.5),
        ranks=(
            Rank(peak_memory_bytes=PeakMemory(allocated=1), resident_peak_bytes=5, unique_items=300.0, alone_s=0.125),
            Rank(peak_memory_bytes=PeakMemory(allocated=1), resident_peak_bytes=6, unique_items=320.0),
        ),
        communication_s=0.01,
        detail={"weights": "real"},
    )
    golden = GOLDEN.read_text()
    assert json.loads(full.model_dump_json()) == json.loads(golden)
    assert Record.model_validate_json(golden) == full


def test_a_record_of_before_an_axis_came_has_what_every_case_had_then():
    older = json.loads(GOLDEN.read_text())
    del older["case"]["cf_module"]
    assert Record.model_validate(older).case["cf_module"] == "nrms"


def test_version_1_is_read_less_what_nothing_reads():
    """Its detail was free: what has a meaning now is kept, and the rest is dropped."""
    older = json.loads(GOLDEN.read_text()) | {
        "schema_version": 1,
        "detail": {"weights": "real", "gone": 1, "lead_in_s": None},
    }
    read = Record.model_validate(older)
    assert read == Record.model_validate_json(GOLDEN.read_text())
    assert read.schema_version == 2
