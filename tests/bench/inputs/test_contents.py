"""Hashes of what is measured: never an old one for a new content, and nothing recorded under another's."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import BertTokenizer

from bench import registry
from bench.configuration.config import load, restore
from bench.configuration.sweep import lines_of_case, plan
from bench.encoders import _base as encoders
from bench.encoders._base import TransformersTokenizer
from bench.errors import UsageError
from bench.inputs import contents, hashes
from bench.results import store
from bench.results.schema import Inputs, Record, RunInputs
from bench.running import recording
from bench.workloads import table
from bench.workloads._base import MalformedData
from bench.workloads._io.tokens import tokenized
from bench.workloads._log.real_log import StoredLog
from tests.bench import _own_inputs as own
from tests.bench import _small_runs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestHashesOfFiles:
    def test_a_settled_file_is_hashed_once(self, tmp_path, cache, monkeypatch):
        """Told by what is remembered: a log of hundreds of MB is not read again by every worker."""
        monkeypatch.setattr(hashes, "SETTLED_NS", -1)
        path = tmp_path / "log.csv"
        path.write_text("a,b\n")
        assert hashes.of_file(path) == sha256(path)
        (note,) = (cache / "hashes").iterdir()
        note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "remembered"}))
        assert hashes.of_file(path) == "remembered"

    @pytest.mark.parametrize("way", ["written", "put in its place"])
    def test_a_file_of_the_same_size_and_time_is_hashed_again(self, tmp_path, monkeypatch, way):
        monkeypatch.setattr(hashes, "SETTLED_NS", -1)
        path, other = tmp_path / "log.csv", tmp_path / "other.csv"
        path.write_text("a,b\n"), other.write_text("a,c\n")
        before, stat = hashes.of_file(path), path.stat()
        if way == "written":
            path.write_text("a,c\n")
        else:
            other.rename(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        assert before != hashes.of_file(path) == sha256(path)

    def test_a_file_that_was_just_written_is_not_remembered(self, tmp_path, cache):
        """Within a tick of the file system's clock it could change again and look the same."""
        path = tmp_path / "log.csv"
        path.write_text("a,b\n")
        assert hashes.of_file(path) == sha256(path)
        assert not (cache / "hashes").exists()

    def test_a_cache_that_cannot_be_written_costs_nothing_but_time(self, tmp_path, cache, monkeypatch):
        monkeypatch.setattr(hashes, "SETTLED_NS", -1)
        cache.write_text("a file where a folder should be")
        path = tmp_path / "log.csv"
        path.write_text("a,b\n")
        assert hashes.of_file(path) == sha256(path)

    def test_what_cannot_be_read_is_one_clear_sentence(self, tmp_path):
        with pytest.raises(UsageError, match=r"absent\.csv: cannot read it \(No such file"):
            hashes.of_file(tmp_path / "absent.csv")

    def test_several_files_are_known_by_names_and_contents(self, tmp_path):
        one, two = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
        one.write_bytes(b"1"), two.write_bytes(b"2")
        both = hashes.of_files([one, two])
        assert hashes.of_files([one]) == sha256(one)
        one.write_bytes(b"2"), two.write_bytes(b"1")
        assert hashes.of_files([one, two]) != both


ARGUMENTS = {"shape": "tiny", "hub": "nobody/nothing"}
WORKLOADS = {"shape": "mind"}


@pytest.mark.parametrize("name", registry.names("bench.encoders"))
def test_every_encoder_says_what_it_is_made_of(name, tmp_path):
    """As far as it is there: the cache of this test is empty."""
    argument = str(own.write_encoder(tmp_path / "encoder")) if name == "path" else ARGUMENTS.get(name)
    found = registry.load("bench.encoders", name).contents(argument)
    assert set(found) <= {"weights", "configuration", "tokenizer"}
    assert bool(found) == (name in ("path", "shape"))


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_an_encoder_that_is_an_asset_is_known_by_its_files(name, asset, monkeypatch):
    monkeypatch.delenv("GRAM_BENCH_CACHE")
    folder = asset(name)
    found = registry.load("bench.encoders", name).contents(None)
    files = {part: [path.name for path in paths] for part, paths in found.items()}
    assert files == {
        "weights": ["model.safetensors"],
        "configuration": ["config.json"],
        "tokenizer": ["tokenizer.json"],
    }
    assert found["weights"][0].parent == folder


def free_texts(name: str, value: str) -> dict[str, str | tuple[str, ...]]:
    """Settings of a workload that take any text, one or several: what would that be but a file or a folder?"""
    model, found = registry.load("bench.workloads", name).Settings, {}
    for key in model.model_fields:
        for given in (value, (value,)):
            with contextlib.suppress(ValidationError):
                model(**{key: given})
                found[key] = given
    return found


def test_settings_that_name_files_are_found():
    """Else the two tests below would pass on nothing."""
    assert set(free_texts("table", "x")) == {"items", "interactions"}
    assert set(free_texts("duolingo", "x")) == {"files"}


@pytest.mark.parametrize("name", registry.names("bench.workloads"))
def test_every_workload_says_what_it_reads(name, tmp_path):
    """The files that its settings name; without such, its settings; and each file from the root, so that it is found
    from any directory."""
    module = registry.load("bench.workloads", name)
    given = free_texts(name, str(tmp_path / "place"))
    chosen = {"texts": "body"} if name == "mind" else {}
    read = [str(each) for each in module.contents(module.Settings(**given, **chosen), WORKLOADS.get(name)).values()]
    if given:
        assert len(read) >= len(given)
        assert all(each.startswith(str(tmp_path / "place")) for each in read)
    else:
        assert read or name == "movielens", "the assets of which are not in this test's cache"


@pytest.mark.parametrize("name", registry.names("bench.workloads"))
def test_every_file_of_a_workload_is_absolute(name, tmp_path, monkeypatch):
    """A setting that names a file and stays relative would lead elsewhere where a run is resumed."""
    monkeypatch.chdir(tmp_path)
    given = free_texts(name, "place")
    settings = registry.load("bench.workloads", name).Settings(**given)
    for key, value in given.items():
        expected = str(tmp_path / "place")
        assert getattr(settings, key) == (expected if isinstance(value, str) else (expected,))


@pytest.mark.parametrize(("name", "setting", "value"), [("synthetic", "zipf", 0.5), ("shape", "scale", 0.5)])
def test_settings_of_what_is_drawn_are_its_content(name, setting, value):
    module = registry.load("bench.workloads", name)
    one, other = (
        module.contents(module.Settings(**changes), WORKLOADS.get(name)) for changes in ({}, {setting: value})
    )
    assert one["settings"] != other["settings"]


class TestPaths:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        folder = own.write(tmp_path / "own")
        monkeypatch.chdir(folder)
        return folder

    def test_a_configuration_holds_them_from_the_root(self, folder, monkeypatch):
        floor = 'gate.floor=[{method="single_step", at_least=1.0, encoder="path:encoder"}]'
        config = load(Path("own.toml"), "full", [floor], "cpu")
        encoder = f"path:{folder}/encoder"
        assert config.sweep.encoder == config.train.sweep.encoder == (encoder,)
        assert config.gate.floor[0].encoder == encoder
        assert config.workload["table"].items == str(folder / "items.csv")
        monkeypatch.chdir("/")
        assert restore(config.model_dump(mode="json")) == config

    def test_a_case_is_chosen_by_the_path_that_the_user_wrote(self, folder):
        items = plan(load(Path("own.toml"), "full", [], "cpu"))
        assert lines_of_case(items, "encoder=path:encoder") == lines_of_case(items, None)


class TestNothingIsRecordedUnderAnothersName:
    @pytest.fixture
    def run_dir(self, tmp_path):
        made = _small_runs.new_run(tmp_path / "runs", _small_runs.config())
        inputs = RunInputs(logs={"synthetic": {"settings": "a"}}, encoders={"shape:tiny": {"configuration": "b"}})
        store.write_info(made, store.read_info(made).model_copy(update={"inputs": inputs}))
        return made

    def record(self, **inputs) -> Record:
        item = _small_runs.item("e2e")
        return Record(
            case=item.case.axes(), method="e2e", engine="eager", block=0, exactness="exact", outcome="ok",
            inputs=Inputs(**inputs),
        )  # fmt: skip

    def test_of_a_log_that_changed_while_it_was_measured(self, run_dir):
        with pytest.raises(UsageError, match=r"the log of synthetic .* became another one; .*gram-bench resume"):
            recording.write(run_dir, self.record(log={"settings": "c"}))
        with pytest.raises(UsageError, match="the encoder shape:tiny"):
            recording.write_block(run_dir, [self.record(), self.record(encoder={"configuration": "c"})])
        assert store.load(run_dir).records == ()

    def test_of_a_log_that_changed_while_it_was_read(self, run_dir):
        read = contents.read_as(Inputs(log={"settings": "a"}), Inputs(log={"settings": "c"}))
        with pytest.raises(UsageError, match="the log of synthetic"):
            recording.write(run_dir, self.record(**read.model_dump()))

    def test_what_is_not_known_is_no_difference(self, run_dir):
        recording.write(run_dir, self.record())
        recording.write(run_dir, self.record(log={"settings": "a"}).model_copy(update={"block": 1}))
        assert len(store.load(run_dir).records) == 2


class TestCaches:
    def test_a_log_that_changes_while_it_is_read_is_not_kept(self, tmp_path):
        """Else the new content would be found under the old one's hash, by every later run."""
        path = tmp_path / "log.csv"
        path.write_text("old")

        def write(folder: Path) -> dict:
            path.write_text("new")
            (folder / "kept").write_text(path.read_text())
            return {}

        with pytest.raises(MalformedData, match="changed while they were read"):
            StoredLog("test", {"log": path}, (), write).kept()
        path.write_text("old")
        folder, _ = StoredLog("test", {"log": path}, (), lambda folder: {"read": path.read_text()}).kept()
        assert not (folder / "kept").exists()

    def test_each_part_of_a_log_has_a_role(self, tmp_path):
        """Files that changed places are another log."""
        one, two = tmp_path / "1", tmp_path / "2"
        one.write_text("1"), two.write_text("2")
        folders = {
            StoredLog("test", parts, settings, lambda folder: {}).kept()[0]
            for parts in ({"a": one, "b": two}, {"a": two, "b": one})
            for settings in ((), (1,))
        }
        assert len(folders) == 4

    def test_a_log_read_by_another_version_of_its_library_is_read_again(self, tmp_path, monkeypatch):
        items, interactions = own.write_items(tmp_path / "items.csv"), own.write_log(tmp_path / "log.csv")
        chosen = table.Settings(items=str(items), interactions=str(interactions))
        first, _ = table._log_of(chosen, "response").kept()
        version = importlib.metadata.version
        monkeypatch.setattr("importlib.metadata.version", lambda name: "0" if name == "pandas" else version(name))
        assert table._log_of(chosen, "response").kept()[0] != first

    def test_a_tokenizer_is_known_by_its_rules_too(self, tmp_path):
        """The same words under other rules give other tokens: nothing of the old ones may be taken."""
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river"]))

        def made(lower: bool) -> TransformersTokenizer:
            return TransformersTokenizer(BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lower))

        assert made(True).fingerprint == made(True).fingerprint != made(False).fingerprint
        tokens = {lower: tokenized(["RIVER"], made(lower))[0].tolist() for lower in (True, False)}
        assert tokens == {lower: made(lower).encode(["RIVER"])[0] for lower in (True, False)}
        assert tokens[True] != tokens[False]

    def test_a_tokenizer_is_the_same_wherever_it_lies(self, tmp_path):
        for name in "ab":
            (tmp_path / name).mkdir()
            (tmp_path / name / "vocab.txt").write_text(
                "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river"])
            )
        one, other = (TransformersTokenizer(BertTokenizer.from_pretrained(tmp_path / name)) for name in "ab")
        assert one.fingerprint == other.fingerprint


def test_weights_are_those_that_are_loaded(tmp_path):
    """A folder may hold them in two formats, of which one is read."""
    folder = own.write_encoder(tmp_path / "encoder")
    before = contents._hashed(encoders.files_of(folder))
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "README.md").write_text("words")
    assert contents._hashed(encoders.files_of(folder)) == before
    own.write_encoder(folder, seed=1)
    assert contents._hashed(encoders.files_of(folder)) != before
