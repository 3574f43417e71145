"""What was measured is known by content: `resume`, `merge`, `gate` and `compare` of logs and encoders that changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.results import store, training, verdicts
from tests.bench import (
    _commands,
    _small_runs,  # noqa: F401 - it gives workers one thread
)
from tests.bench import _own_inputs as own

ROOT = Path(__file__).parents[3]
CHANGES = {
    "log.csv": "the log of table has become another one: interactions",
    "items.csv": "the log of table has become another one: items",
    "encoder/model.safetensors": "has become another one: weights",
    "encoder/config.json": "has become another one: configuration",
    "encoder/tokenizer.json": "has become another one: tokenizer",
}
"""A file, and what is said where its content changed."""


def command(*arguments: str | Path, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, in some directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRAM_BENCH_CACHE": str(cache), "COLUMNS": "200"}
    line = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def here(*arguments: str | Path):
    """The command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result) -> str:
    """All that was printed, on one line."""
    return " ".join(result.output.split())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache for the tests of this file, and nobody else's."""
    folder = tmp_path_factory.getbasetemp() / "cache-of-contents"
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A function: the command line in another process, whose cache is this file's, from some directory."""
    with _commands.process(GRAM_BENCH_CACHE=str(tmp_path_factory.getbasetemp() / "cache-of-contents")) as run:
        yield run


def measured(folder: Path, elsewhere) -> Path:
    """The run of a folder's own.toml, started in that folder."""
    result = elsewhere("run", "--config", "own.toml", "--device", "cpu", "--out", "runs", cwd=folder)
    assert result.exit_code == 0, result.output
    return (folder / "runs" / "latest").resolve()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, elsewhere):
    """A folder with inputs of its own, and the run that was measured of them; only to be read and copied."""
    folder = own.write(tmp_path_factory.mktemp("contents") / "first")
    return folder, measured(folder, elsewhere)


@pytest.fixture
def interrupted(finished, tmp_path):
    """The folder, copied, and its run less the last record."""
    folder, run_dir = finished
    copied = Path(shutil.copytree(run_dir, tmp_path / run_dir.name))
    lines = (copied / store.RECORDS_FILE).read_bytes().splitlines(keepends=True)
    (copied / store.RECORDS_FILE).write_bytes(b"".join(lines[:-1]))
    return folder, copied


def without_hashes(run_dir: Path) -> None:
    """Makes the run one of before hashes were kept."""
    info = json.loads((run_dir / store.INFO_FILE).read_text())
    del info["inputs"]
    (run_dir / store.INFO_FILE).write_text(json.dumps(info))
    records = [json.loads(line) for line in (run_dir / store.RECORDS_FILE).read_text().splitlines()]
    for record in records:
        del record["inputs"]
    (run_dir / store.RECORDS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def changed(path: Path) -> bytes:
    """The content of a file with one sign changed that leaves it readable: as long as before."""
    content = path.read_bytes()
    for before, after in ((b"u1,", b"u2,"), (b"river", b"rover"), (b"0.02", b"0.03")):
        if path.suffix in (".csv", ".json") and before in content:
            return content.replace(before, after, 1)
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_run_and_its_records_hold_the_hashes_of_what_was_read(finished):
    """As sha256sum prints them, and the paths from the root."""
    folder, run_dir = finished
    run = store.load(run_dir)

    def sha256(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    encoder = f"path:{folder}/encoder"
    log = {"items": sha256("items.csv"), "interactions": sha256("log.csv")}
    files = {"weights": "model.safetensors", "configuration": "config.json", "tokenizer": "tokenizer.json"}
    parts = {part: sha256(f"encoder/{file}") for part, file in files.items()}
    assert run.info.inputs.model_dump() == {"logs": {"table": log}, "encoders": {encoder: parts}}
    assert [record.inputs.model_dump() for record in run.records] == [{"log": log, "encoder": parts}] * 2
    assert run.info.config["workload"]["table"]["interactions"] == str(folder / "log.csv")
    assert run.records[0].case["encoder"] == encoder


def test_a_run_is_resumed_from_another_directory(interrupted, tmp_path, elsewhere):
    _, run_dir = interrupted
    (tmp_path / "elsewhere").mkdir()
    result = elsewhere("resume", run_dir, cwd=tmp_path / "elsewhere")
    assert result.exit_code == 0, result.output
    assert [record.outcome for record in store.load(run_dir).records] == ["ok", "ok"]


def test_a_log_that_changed_is_refused_by_a_process_of_its_own(interrupted, tmp_path, cache):
    """With the size and the time of change of the file before: only the content tells."""
    folder, run_dir = interrupted
    path, records = folder / "log.csv", (run_dir / store.RECORDS_FILE).read_bytes()
    stat = path.stat()
    with own.replaced(path, changed(path)):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        result = command("resume", run_dir, cwd=tmp_path, cache=cache)
    assert result.returncode == 2, result.stderr
    assert f"interactions ({path})" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (run_dir / store.RECORDS_FILE).read_bytes() == records


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_is_not_gone_on_with_on_other_content(interrupted, name):
    folder, run_dir = interrupted
    records = (run_dir / store.RECORDS_FILE).read_bytes()
    with own.replaced(folder / name, changed(folder / name)):
        result = here("resume", run_dir)
    assert result.exit_code == 2, result.output
    assert CHANGES[name] in said(result)
    assert str(folder / name) in said(result)
    assert (run_dir / store.RECORDS_FILE).read_bytes() == records


def test_a_run_of_before_hashes_is_resumed_with_a_warning(interrupted, tmp_path, elsewhere):
    """Unknown is no difference; what is measured from then on is known."""
    _, run_dir = interrupted
    without_hashes(run_dir)
    result = elsewhere("resume", run_dir, cwd=tmp_path)
    assert result.exit_code == 0, result.output
    assert "warning: this run keeps no hash of the log of table" in said(result)
    first, second = store.load(run_dir).records
    assert not first.inputs.log
    assert second.inputs.log


@pytest.fixture
def shards(finished, tmp_path):
    """A function: what to change in the second folder -> two runs, each with one of the run's records."""
    folder, run_dir = finished

    def shards(file: str | None = None) -> list[Path]:
        other = Path(shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("runs")))
        if file is not None:
            (other / file).write_bytes(changed(other / file))
        found = []
        for number, place in enumerate((folder, other)):
            made = Path(shutil.copytree(run_dir, tmp_path / str(number) / run_dir.name))
            lines = (made / store.RECORDS_FILE).read_text().splitlines(keepends=True)
            parts = {made / store.RECORDS_FILE: lines[number], made / store.INFO_FILE: None}
            for path, text in parts.items():
                text = (text or path.read_text()).replace(str(folder), str(place))
                if file is not None and place is other:
                    was, now = (hashlib.sha256((each / file).read_bytes()).hexdigest() for each in (folder, other))
                    text = text.replace(was, now)
                path.write_text(text)
            found.append(made)
        return found

    return shards


def test_merging_folders_that_hold_the_same_are_one_run(shards, finished, tmp_path):
    """Each machine has its own places; the merged run has the first one's."""
    result = here("merge", *shards(), "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    merged = store.load((tmp_path / "merged" / "latest").resolve())
    assert merged.info.inputs == store.load(finished[1]).info.inputs
    assert [record.case for record in merged.records] == [record.case for record in store.load(finished[1]).records]


@pytest.mark.parametrize("name", ["log.csv", "items.csv"])
def test_merging_other_content_is_refused(shards, tmp_path, name):
    result = here("merge", *shards(name), "--out", tmp_path / "merged")
    assert result.exit_code == 2, result.output
    assert "not measured on the same as" in said(result)
    assert "the log of table (SHA-256 of" in said(result)
    assert not (tmp_path / "merged").exists()


def test_merging_another_encoder_of_the_same_name_is_refused(shards, tmp_path):
    first, second = shards()
    info = store.read_info(first)
    (name,) = info.inputs.encoders
    for path in (second / store.INFO_FILE, second / store.RECORDS_FILE):
        text = path.read_text().replace(str(tmp_path / "other"), name.removeprefix("path:").removesuffix("/encoder"))
        path.write_text(text.replace(info.inputs.encoders[name]["weights"], "0" * 64))
    result = here("merge", first, second, "--out", tmp_path / "merged")
    assert result.exit_code == 2, result.output
    assert f"the encoder {name} (SHA-256 of weights" in said(result)


def test_merging_what_is_not_known_is_told(shards, tmp_path):
    first, second = shards()
    for path in (second / store.INFO_FILE, second / store.RECORDS_FILE):
        path.write_text(path.read_text().replace(str(tmp_path / "other"), str(_folder_of(first))))
    without_hashes(second)
    result = here("merge", first, second, "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "was measured on the same as" in said(result)
    assert "the log of table" in said(result)


def _folder_of(run_dir: Path) -> Path:
    return Path(store.read_info(run_dir).config["workload"]["table"]["items"]).parent


@pytest.fixture(scope="module")
def pair(tmp_path_factory, elsewhere):
    """Paired runs of one folder on two logs of one name, the second of which repeats its items more; and the folder."""
    folder = own.write(tmp_path_factory.mktemp("pair") / "pair", blocks=2)
    first = measured(folder, elsewhere)
    own.write_log(folder / "log.csv", catalogue=8)
    return first, measured(folder, elsewhere), folder


def test_compare_tells_what_is_another_one(pair):
    first, second, _ = pair
    text = said(here("compare", first, second))
    assert "Not measured on the same, A and B: the log of table (SHA-256 of interactions" in text
    assert "the log of table is another one" in text
    assert "its batches repeat items" in text
    same = said(here("compare", first, first))
    assert "Not measured on the same" not in same
    assert "not known" not in same


def test_compare_tells_what_is_not_known(pair, tmp_path):
    older = Path(shutil.copytree(pair[0], tmp_path / pair[0].name))
    without_hashes(older)
    assert "Whether these are the same is not known" in said(here("compare", older, pair[1]))


def test_the_gate_tells_of_every_line_that_its_input_is_another_one(pair, tmp_path):
    """Whatever the verdict: the machine may be too busy for any."""
    first, second, _ = pair
    for run_dir, differs in ((second, True), (first, False)):
        now = Path(shutil.copytree(run_dir, tmp_path / run_dir.name))
        (tmp_path / "gate.toml").write_text("[gate]\nretry = false\n")
        result = here("gate", now, "--reference", first, "--config", tmp_path / "gate.toml")
        report = verdicts.read(now)
        assert report is not None, result.output
        assert ("Not measured on the same as the reference: the log of table" in said(result)) == differs
        for line in report.lines:
            assert ("the log of table is another one" in line.deciding.reason) == differs
            assert ("its batches repeat items" in line.deciding.reason) == differs


def test_the_gate_finds_an_encoder_that_moved_by_its_content(pair, tmp_path):
    """The same weights in another folder are the same line: nothing is missing, nothing renamed."""
    first, _, folder = pair
    now = Path(shutil.copytree(first, tmp_path / first.name))
    for path in (now / store.INFO_FILE, now / store.RECORDS_FILE):
        path.write_text(path.read_text().replace(f"path:{folder}/encoder", "path:/models/moved"))
    here("gate", now, "--reference", first)
    report = verdicts.read(now)
    assert report is not None
    assert {check.code for line in report.lines for check in line.checks}.isdisjoint({"missing", "renamed"})
    assert {line.case["encoder"] for line in report.lines} == {"path:/models/moved"}
    assert "only in" not in said(here("compare", first, now))


def test_the_gate_measures_no_further_on_other_content(pair, tmp_path):
    """Its retry would join blocks of two logs in one interval."""
    first, _, _ = pair
    now = Path(shutil.copytree(first, tmp_path / first.name))
    records = (now / store.RECORDS_FILE).read_bytes()
    speed_up = next(line.speed_up for line in _lines(now) if line.speed_up)
    (tmp_path / "near.toml").write_text(
        f'[gate]\ncanary_limit = 0.99\n[[gate.floor]]\nmethod = "single_step"\nat_least = {speed_up.value}\n'
    )
    result = here("gate", now, "--config", tmp_path / "near.toml")
    assert "could not be measured further" in said(result), result.output
    assert "the log of table has become another one: interactions" in said(result)
    assert (now / store.RECORDS_FILE).read_bytes() == records


def _lines(run_dir: Path):
    from bench.results.analysis.lines import lines

    return lines(store.load(run_dir).records)


def test_a_training_is_not_gone_on_with_on_another_log(tmp_path, elsewhere):
    folder = own.write(tmp_path / "training")
    own.write_log(folder / "log.csv", users=40)
    result = elsewhere("train", "--config", "own.toml", "--device", "cpu", "--out", "runs", cwd=folder)
    assert result.exit_code == 0, result.output
    run_dir = (folder / "runs" / "latest").resolve()
    info, points = store.read_info(run_dir), training.load(run_dir).points
    assert points
    assert {json.dumps(point.inputs.log) for point in points} == {json.dumps(info.inputs.logs["table"])}
    lines = (run_dir / training.POINTS_FILE).read_bytes().splitlines(keepends=True)
    (run_dir / training.POINTS_FILE).write_bytes(lines[0])
    own.write_log(folder / "log.csv", catalogue=8, users=40)
    result = here("resume", run_dir)
    assert result.exit_code == 2, result.output
    assert "the log of table has become another one: interactions" in said(result)
    assert (run_dir / training.POINTS_FILE).read_bytes() == lines[0]
