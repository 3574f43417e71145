"""`gram-bench gate`, `reference` and `compare` through the command line: planted losses, exit codes, and every file."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.configuration.config import load
from bench.configuration.sweep import plan
from bench.gating import references
from bench.machine import environment
from bench.results import store, verdicts
from bench.results.schema import Environment
from tests.bench import (
    _counted_clock,
    _small_runs,  # noqa: F401 - it gives workers one thread
)
from tests.bench import _gated_runs as runs
from tests.bench._gated_runs import PEAK, case

THEN = [*case(4.0, seed=1), *case(2.0, seed=1, ratio=2.0)]
SLOWED = [*case(4.0 / 1.1, seed=2), *case(2.0, seed=2, ratio=2.0)]
BROKEN = [*case(4.0, seed=2, outcome="oom", reason="CUDA ran out of memory"), *case(2.0, seed=2, ratio=2.0)]


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def invoked(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoked


@pytest.fixture
def reference(tmp_path, invoke):
    """The file of a reference."""
    path = tmp_path / "reference.json"
    result = invoke("reference", runs.write(tmp_path / "then", THEN), "--out", path)
    assert result.exit_code == 0, result.output
    return path


def said(result) -> str:
    """All that was printed, on one line."""
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("now", "code", "words"),
    [
        ([*case(4.0, seed=2), *case(2.0, seed=2, ratio=2.0)], 0, ["PASS: all 4 lines hold"]),
        (SLOWED, 3, ["speed-lost", "speed-up lost, -9", "3.6", "in the reference", "1 of 4 lines failed"]),
        (
            [*case(4.0, seed=2, allocated=round(PEAK * 1.05)), *case(2.0, seed=2, ratio=2.0)],
            3,
            ["memory-grown", "4.102 GiB, 3.906 GiB in the reference (+5.0 %)"],
        ),
        (BROKEN, 3, ["newly-oom", "CUDA ran out of memory", "it was measured in the reference"]),
        (
            [*case(4.0, seed=2), *case(2.0, seed=2, ratio=3.0)],
            3,
            ["renamed", "item_repetition_ratio = 3.0 instead of 2.0"],
        ),
        ([], 5, ["nothing was measured"]),
    ],
    ids=["the same", "10 % slower", "5 % more memory", "out of memory", "renamed", "empty"],
)
def test_planted_losses_end_with_their_code_and_a_reason(tmp_path, invoke, reference, now, code, words):
    result = invoke("gate", runs.write(tmp_path / "now", now), "--reference", reference)
    assert result.exit_code == code, result.output
    for word in words:
        assert word in said(result)


def test_an_undecided_gate_ends_with_0_and_with_4_when_strict(tmp_path, invoke, reference):
    near = [*case(4.0 * 0.951, seed=2), *case(2.0, seed=2, ratio=2.0)]
    run_dir = runs.write(tmp_path / "now", near)
    assert invoke("gate", run_dir, "--reference", reference).exit_code == 0
    result = invoke("gate", run_dir, "--reference", reference, "--strict")
    assert result.exit_code == 4
    assert "INCONCLUSIVE: 1 of 4 lines are undecided" in said(result)
    assert "could not be measured further" in said(result)
    assert verdicts.read(run_dir).strict


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"device": "NVIDIA A100-SXM4-80GB"}, "NVIDIA A100"),
        ({"driver": "999.1"}, "999.1"),
        ({"power_limit_w": 350.0}, "power limit: 700 and 350"),
        ({"libraries": {"torch": "9.9"}}, "torch: 2.11.0 and 9.9"),
    ],
)
def test_a_reference_of_another_machine_is_refused_unless_asked(tmp_path, invoke, reference, change, word):
    run_dir = runs.write(tmp_path / "now", THEN, runs.info(**change))
    result = invoke("gate", run_dir, "--reference", reference)
    assert result.exit_code == 2
    assert word in result.stderr
    assert "--allow-mismatch" in result.stderr
    assert verdicts.read(run_dir) is None
    result = invoke("gate", run_dir, "--reference", reference, "--allow-mismatch")
    assert result.exit_code == 0, result.output
    assert "The reference was measured elsewhere: " in said(result)
    assert word in said(result)


def test_a_run_directory_is_a_reference_too(tmp_path, invoke):
    then, now = runs.write(tmp_path / "then", THEN), runs.write(tmp_path / "now", SLOWED)
    assert invoke("gate", now, "--reference", then).exit_code == 3
    assert invoke("gate", then, "--reference", then).exit_code == 0


def test_what_is_no_reference_is_refused(tmp_path, invoke):
    run_dir = runs.write(tmp_path / "now", THEN)
    (tmp_path / "other.json").write_text('{"half": ')
    for path in ("absent.json", "other.json", "."):
        result = invoke("gate", run_dir, "--reference", tmp_path / path)
        assert result.exit_code == 2, result.output
        assert str(tmp_path / path) in result.stderr
        assert "Traceback" not in result.output


def test_nothing_to_hold_a_run_against_is_a_usage_error(tmp_path, invoke):
    result = invoke("gate", runs.write(tmp_path, THEN))
    assert result.exit_code == 2
    assert "--reference" in result.stderr
    assert "[[gate.floor]]" in result.stderr


def test_floors_come_with_the_run_or_from_a_file(tmp_path, invoke):
    run_dir = runs.write(tmp_path / "now", THEN, runs.info(gate=runs.floor(3.0, item_repetition_ratio=8.0)))
    assert invoke("gate", run_dir).exit_code == 0
    file = tmp_path / "mine.toml"
    file.write_text('[[gate.floor]]\nmethod = "single_step"\nat_least = 5\n')
    result = invoke("gate", run_dir, "--config", file)
    assert result.exit_code == 3
    assert "2 of 2 lines failed" in said(result)


def test_the_files_tell_a_person_and_a_server_the_same(tmp_path, invoke, reference, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run_dir = runs.write(tmp_path / "now", BROKEN)
    assert invoke("report", run_dir).exit_code == 0
    assert 'id="gate"' not in (run_dir / "report.html").read_text()
    assert invoke("gate", run_dir, "--reference", reference).exit_code == 3

    told = json.loads((run_dir / "gate.json").read_text())
    assert (told["verdict"], told["code"], told["exit_code"]) == ("FAIL", "regression", 3)
    suite = ET.parse(run_dir / "gate.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "0")
    (failure,) = suite.iter("failure")
    assert failure.get("type") == "newly-oom"
    assert "CUDA ran out of memory" in failure.get("message")
    markdown = (run_dir / "gate.md").read_text()
    assert markdown.startswith("## gram-bench gate: FAIL\n")
    assert "newly-oom" in markdown
    assert "<details><summary>3 lines passed</summary>" in markdown
    assert summary.read_text() == "before\n" + markdown
    page = (run_dir / "report.html").read_text()
    assert 'id="gate"' in page
    assert "Gate: FAIL" in page
    assert "newly-oom" in page


def test_undecided_lines_are_skipped_tests_and_failed_ones_when_strict(tmp_path, invoke, reference):
    near = [*case(4.0 * 0.951, seed=2), *case(2.0, seed=2, ratio=2.0)]
    run_dir = runs.write(tmp_path / "now", near)
    for strict, counts in (((), ("0", "1")), (("--strict",), ("1", "0"))):
        invoke("gate", run_dir, "--reference", reference, *strict)
        suite = ET.parse(run_dir / "gate.xml").getroot().find("testsuite")
        assert (suite.get("failures"), suite.get("skipped")) == counts


def test_control_characters_in_a_reason_keep_the_xml_whole(tmp_path, invoke, reference):
    run_dir = runs.write(tmp_path / "now", [*case(4.0, seed=2, outcome="error", reason="died\x1b[31m <\x00&>")])
    assert invoke("gate", run_dir, "--reference", reference).exit_code == 3
    assert "<&>" in ET.tostring(ET.parse(run_dir / "gate.xml").getroot(), encoding="unicode", method="text")


def test_a_damaged_verdict_is_named_and_does_not_cost_the_page(tmp_path, invoke):
    run_dir = runs.write(tmp_path / "now", THEN)
    (run_dir / "gate.json").write_text('{"verdict": "MAYBE"}')
    result = invoke("report", run_dir)
    assert result.exit_code == 0, result.output
    assert "gate.json" in (run_dir / "report.html").read_text()


def test_a_reference_lies_where_its_device_is_named(tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(references, "FOLDER", tmp_path / "kept")
    run_dir = runs.write(tmp_path / "now", THEN)
    result = invoke("reference", run_dir)
    assert result.exit_code == 0, result.output
    path = tmp_path / "kept" / "nvidia-h100-80gb-hbm3.json"
    assert references.read(path).run_id == store.read_info(run_dir).run_id
    assert "Replaced" in invoke("reference", run_dir).output
    cpu = store.read_info(run_dir).environment.model_copy(update={"device": "AMD EPYC", "device_kind": "cpu"})
    assert references.place(cpu).name == "amd-epyc-16-cores.json"


def test_a_run_without_a_speed_up_is_no_reference(tmp_path, invoke):
    result = invoke("reference", runs.write(tmp_path, []), "--out", tmp_path / "reference.json")
    assert result.exit_code == 5
    assert not (tmp_path / "reference.json").exists()


def test_a_run_whose_canary_left_its_limit_is_a_reference_only_when_asked(tmp_path, invoke):
    """Every later run would be held against a machine's bad day."""
    run_dir, path = runs.write(tmp_path, case(canary=1.2)), tmp_path / "reference.json"
    result = invoke("reference", run_dir, "--out", path)
    assert result.exit_code == 2, result.output
    assert "its canary leaves its limit" in said(result)
    assert "--allow-untrusted" in said(result)
    assert not path.exists()
    result = invoke("reference", run_dir, "--out", path, "--allow-untrusted")
    assert result.exit_code == 0, result.output
    assert "warning: its canary leaves its limit" in said(result)
    assert not references.read(path).canary.trusted
    now = runs.write(tmp_path / "now", case(seed=2))
    assert "that machine was too unsteady to trust" in said(invoke("gate", now, "--reference", path))


def test_committed_references_of_before_hashes_and_canaries_are_read():
    found = sorted(references.FOLDER.glob("*.json"))
    assert found
    for path in found:
        assert references.read(path).lines


def test_two_runs_are_compared_with_their_differences_first(tmp_path, invoke):
    gone = [record for record in THEN if record.case["item_repetition_ratio"] == 8.0]
    a = runs.write(tmp_path / "a", [*THEN, *case(1.5, ratio=3.0)])
    b = runs.write(tmp_path / "b", [*SLOWED[: len(gone)], *case(5.0, ratio=5.0)], runs.info(device="Another GPU"))
    result = invoke("compare", a, b)
    assert result.exit_code == 0, result.output
    text = said(result)
    assert "device: NVIDIA H100 80GB HBM3 and Another GPU" in text
    assert text.index("Another GPU.") < text.index("slower")
    assert re.search(r"4\.0\d*\S.* 3\.6\d*\S .*-9\.\d % .*slower", text)
    assert "1 slower" in text
    assert "only in A" in text
    assert "only in B" in text


def test_compare_finds_a_run_the_same_as_itself(tmp_path, invoke):
    a = runs.write(tmp_path / "a", THEN)
    text = said(invoke("compare", a, a))
    assert "Environments and settings are the same." in text
    assert "2 same" in text


def test_compare_needs_two_runs_or_a_folder(tmp_path, invoke):
    for arguments in ([], [tmp_path], [tmp_path, tmp_path, "--history", tmp_path], ["--history", tmp_path / "absent"]):
        result = invoke("compare", *arguments)
        assert result.exit_code == 2, result.output
    assert invoke("compare", "--history", tmp_path).exit_code == 5


def test_history_draws_and_lists_every_run(tmp_path, invoke):
    for day, records in enumerate((THEN, SLOWED, THEN)):
        header = runs.info().model_copy(update={"run_id": f"run-{day}", "started_at": f"2026-11-2{day}T08:00:00Z"})
        runs.write(tmp_path / "runs", records, header)
    damaged = runs.write(tmp_path / "runs", THEN)
    (damaged / store.RECORDS_FILE).write_text("{}\n")
    result = invoke("compare", "--history", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "history.png").read_bytes().startswith(b"\x89PNG")
    text = said(result)
    assert text.index("run-0") < text.index("run-1") < text.index("run-2")
    assert "results.jsonl, line 1" in text
    assert re.search(r"run-1 2026-11-21 08:00 UTC 3\.6\d\S", text)


PLANTED = """
[run]
blocks = 4
max_blocks = 4
rounds = 6
memory = "same"
samples = 3
window_s = 0.001
max_warmup_steps = 3
budget_s = 1.0
plugins = ["tests.bench.planted_methods"]
[sweep]
encoder = "shape:tiny"
batch_size = 4
history_length = 7
text_length = 8
item_repetition_ratio = 4
method = ["e2e", "slowed_single_step"]
[gate]
retry = false
"""


@pytest.fixture(scope="module")
def counting():
    """Real workers and turns, whose clock a busy machine can't move."""
    with _counted_clock.counting():
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, counting):
    """A function: a name and settings of the planted method -> a run directory, measured by workers that count."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "planted.toml").write_text(PLANTED)

    def run(name: str, **settings) -> Path:
        changes = [f"method.slowed_single_step.{key}={value}" for key, value in settings.items()]
        arguments = [word for change in changes for word in ("--set", change)]
        command = ["run", "--config", folder / "planted.toml", "--device", "cpu", "--out", folder / name, *arguments]
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert result.exit_code == 0, result.output
        return (folder / name / "latest").resolve()

    return run


@pytest.fixture(scope="module")
def then(measured) -> Path:
    """A run with nothing planted, only to be read."""
    return measured("then")


def test_losses_planted_in_a_method_are_found_by_a_real_run(invoke, measured, then):
    """Workers, turns, records, verdicts: whole. A tenth is lost, where a twentieth may be."""
    assert [line["speed_up"] for line in lines_of(then)] == [None, pytest.approx(4.0, rel=0.01)]
    slowed = invoke("gate", measured("slowed", slowdown=0.1), "--reference", then)
    assert slowed.exit_code == 3, slowed.output
    assert "speed-lost" in slowed.output
    assert re.search(r"speed-up lost, -[89]\.\d % .* 5 % may be lost", said(slowed))
    starved = invoke("gate", measured("starved", starved="true"), "--reference", then)
    assert starved.exit_code == 3, starved.output
    assert "newly-oom" in starved.output


def test_an_undecided_run_of_this_machine_is_measured_in_twice_its_blocks(tmp_path, invoke, then, counting):
    run_dir = Path(shutil.copytree(then, tmp_path / then.name))
    blocks = {record.block for record in store.load(run_dir).records}
    assert blocks == {0, 1, 2, 3}
    (speed_up,) = [line["speed_up"] for line in lines_of(run_dir) if line["speed_up"]]
    file = tmp_path / "near.toml"
    floor = f'[[gate.floor]]\nmethod = "slowed_single_step"\nat_least = {speed_up}\n'
    file.write_text(f'[run]\nplugins = ["tests.bench.planted_methods"]\n{floor}')
    result = invoke("gate", run_dir, "--config", file)
    assert "in 8 blocks" in said(result)
    assert {record.block for record in store.load(run_dir).records} == set(range(8))
    assert "measured in twice their blocks" in said(result)
    assert {line["blocks"] for line in lines_of(run_dir)} == {8}


def lines_of(run_dir: Path) -> list[dict]:
    from bench.results.analysis.lines import lines

    return [
        {"speed_up": line.speed_up and line.speed_up.value, "blocks": line.blocks}
        for line in lines(store.load(run_dir).records)
    ]


def test_a_run_of_another_machine_is_not_measured_further(tmp_path, invoke):
    """Its verdict stands, and says so."""
    place = environment.describe("cpu").model_copy(update={"device": "Another Processor"})
    assert isinstance(place, Environment)
    near = runs.floor(4.0, item_repetition_ratio=8.0)
    config = {"run": {"device": "cpu"}, "gate": near}
    header = runs.info().model_copy(update={"environment": place, "config": config})
    result = invoke("gate", runs.write(tmp_path, THEN, header))
    assert result.exit_code == 0, result.output
    assert "could not be measured further" in said(result)
    assert "Another Processor" in said(result)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_gates_preset_has_a_line_for_every_committed_floor(kind):
    """Else the gate fails on every machine for want of a case."""
    config = load(Path(__file__).parents[3] / "bench.toml", "gate", (), kind)
    floors = [floor for floor in config.gate.floor if floor.device in (None, kind)]
    assert floors
    for floor in floors:
        assert any(
            {"method": item.line.method, **item.case.axes()}.items() >= floor.conditions().items()
            for item in plan(config)
        )


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("gate.tolerance=1.5", "gate.tolerance: expected a fraction between 0 and 1"),
        ("gate.retries=true", 'did you mean "retry"?'),
        ('gate.floor=[{method = "singel_step", at_least = 2.0}]', 'did you mean "single_step"?'),
        ('gate.floor=[{method = "single_step"}]', "gate.floor[0].at_least"),
    ],
)
def test_a_wrong_gate_is_refused_before_anything_is_measured(invoke, override, word):
    result = invoke("run", "--device", "cpu", "--preset", "gate", "--dry-run", "--set", override)
    assert result.exit_code == 2
    assert word in result.stderr
