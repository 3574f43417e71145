"""What cannot be is refused before anything is measured: exit code 2, no run directory, `latest` as it was."""

import pytest
from typer.testing import CliRunner

from bench import registry
from bench.cli import app
from bench.encoders import _base as encoders
from bench.encoders.shape import SHAPES
from tests.bench import _small_runs  # noqa: F401 - it gives workers one thread

TABLE = ["workload=[table]", "encoder=[minilm]", "layers=[1]", "history_length=[4]", "text_length=[8]"]
SMALL = ["batch_size=[4]", "item_repetition_ratio=[1]", "part=[]"]


@pytest.fixture
def log(tmp_path):
    """Twenty items and ten users who met twelve of them; a function that returns the settings that lead there."""

    def written(items=None, rows=""):
        text = items or "".join(f"i{n},text number {n}\n" for n in range(20))
        (tmp_path / "items.csv").write_text("item_id,text\n" + text)
        told = "".join(f"u{user},i{(7 * user + n) % 20},{n},{n % 2}\n" for user in range(10) for n in range(12))
        (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,label\n" + told + rows)
        return [f"workload.table.items={tmp_path / 'items.csv'}", f"workload.table.interactions={tmp_path / 'log.csv'}"]

    return written


@pytest.fixture
def refused(tmp_path, monkeypatch, asset):
    """Runs a command that is to be refused; returns its sentence."""
    asset("minilm")
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "runs"
    out.mkdir()
    (out / "earlier").mkdir()
    (out / "latest").symlink_to("earlier", target_is_directory=True)

    def invoked(command, settings, *options):
        place = "train.sweep" if command == "train" else "sweep"
        changes = [
            each if each.startswith(("workload.", "train.", "model.")) else f"{place}.{each}" for each in settings
        ]
        arguments = [command, "--preset", "smoke", "--device", "cpu", "--out", str(out), *options]
        result = CliRunner().invoke(app, [*arguments, *(word for change in changes for word in ("--set", change))])
        assert result.exit_code == 2, result.output
        assert sorted(path.name for path in out.iterdir()) == ["earlier", "latest"], "something was left behind"
        assert (out / "latest").readlink().name == "earlier"
        *said, sentence = result.stderr.strip().splitlines()
        assert sentence.startswith("gram-bench: ")
        assert all(line.startswith(("warning: ", "reading ")) for line in said), said
        return sentence

    return invoked


@pytest.mark.parametrize("options", [("--dry-run",), ()])
class TestRefused:
    """With --dry-run as without."""

    @pytest.mark.parametrize("command", ["run", "train"])
    def test_a_text_that_is_longer_than_the_encoder_takes(self, refused, log, command, options):
        sentence = refused(command, [*TABLE, *SMALL, "text_length=[513]", *log()], *options)
        assert "sweep.text_length: 513 is more than the 512 tokens that minilm takes; lower it" in sentence

    @pytest.mark.parametrize("command", ["run", "train"])
    def test_an_encoder_without_tokenizer_on_real_texts(self, refused, log, command, options):
        changes = ["encoder=[shape:tiny]", 'layers=["all"]']
        sentence = refused(command, [*TABLE, *SMALL, *changes, *log()], *options)
        assert "sweep.encoder: table has real texts, and shape:tiny has no tokenizer" in sentence

    @pytest.mark.parametrize("command", ["run", "train"])
    def test_a_data_file_with_a_malformed_row(self, refused, log, command, options):
        sentence = refused(command, [*TABLE, *SMALL, *log(rows="u1,i1\n")], *options)
        assert "log.csv, line 122: expected 4 fields, found 2" in sentence

    @pytest.mark.parametrize("command", ["run", "train"])
    def test_a_log_that_holds_no_batch(self, refused, log, command, options):
        changes = ["batch_size=[500]", "train.cold_items=0"]
        sentence = refused(command, [*TABLE, *SMALL, *changes, *log()], *options)
        assert "batch_size = 500 is more than the" in sentence
        assert command == "train" or "60 of 120 rows were left out: 60 label below positive_from" in sentence

    def test_more_cold_items_than_the_log_can_give(self, refused, log, options):
        sentence = refused("train", [*TABLE, *SMALL, "train.cold_items=11", *log()], *options)
        assert "train.cold_items = 11 is more than half of the 20 items that the log knows; lower it" in sentence


def told_by_a_dry_run(settings):
    """Of a log with rows of unknown items."""
    arguments = ["run", "--preset", "smoke", "--device", "cpu", "--dry-run"]
    result = CliRunner().invoke(app, [*arguments, *(word for each in settings for word in ("--set", each))])
    assert result.exit_code == 0, result.output
    return " ".join(result.stderr.split())


def test_what_was_left_out_is_told_when_it_is_read(log, asset):
    asset("minilm")
    changed = [*TABLE, *SMALL, "history_length=[4, 8]"]
    told = told_by_a_dry_run([f"sweep.{each}" for each in changed] + log(rows=20 * "u1,unknown,1,1\n"))
    assert told.count("rows were left out") == 1, "once, for two cases of one log"
    assert "warning: table: 80 of 140 rows were left out: 60 label below positive_from: no click" in told
    assert 'item_id without a text (for instance line 122, item_id "unknown")' in told


def test_what_each_task_leaves_out_is_told_apart(log, asset):
    asset("minilm")
    changed = [*TABLE, *SMALL, "cf_module=[nrms, dkt]", "method=[e2e]"]
    told = told_by_a_dry_run([f"sweep.{each}" for each in changed] + log(rows=20 * "u1,unknown,1,1\n"))
    assert "warning: table, to be ranked: 80 of 140 rows were left out" in told
    assert "warning: table, as responses: 20 of 140 rows were left out" in told


@pytest.mark.parametrize("encoder", ["minilm", "mpnet", *(f"shape:{name}" for name in SHAPES)])
def test_limits_are_those_of_the_encoder_as_it_is_loaded(encoder, asset, monkeypatch):
    torch = pytest.importorskip("torch")
    from dataclasses import replace

    if encoder in ("minilm", "mpnet"):
        asset(encoder)
    for name, shape in SHAPES.items():
        few = {key: 1 if key == "num_key_value_heads" else 16 for key in shape.options if "head" in key}
        monkeypatch.setitem(SHAPES, name, replace(shape, width=32, heads=2, inner=64, options={**shape.options, **few}))
    cpu = torch.device("cpu")
    loaded = encoders.load(encoder, encoders.Loading(cpu, torch.float32, layers=1, dropout="off"))
    found = encoders.limits(encoder)
    assert (found.longest_text, found.has_tokenizer) == (loaded.longest_text, loaded.tokenizer is not None)


@pytest.mark.parametrize("options", [("--dry-run",), ()])
@pytest.mark.parametrize("command", ["run", "train"])
def test_a_folder_takes_what_its_files_say(refused, log, tmp_path, command, options):
    """It has positions for 512 tokens, and no tokenizer."""
    torch = pytest.importorskip("torch")
    loaded = encoders.load("shape:tiny", encoders.Loading(torch.device("cpu"), torch.float32, layers=1))
    loaded.model.save_pretrained(tmp_path / "model")
    changes = [*TABLE, *SMALL, f"encoder=['path:{tmp_path / 'model'}']", *log()]
    sentence = refused(command, [*changes, "text_length=[513]"], *options)
    assert "text_length 513 is more than the 512 tokens of path:" in sentence
    sentence = refused(command, [*changes, "text_length=[512]"], *options)
    assert "sweep.encoder: table has real texts, and path:" in sentence
    assert "has no tokenizer" in sentence


def test_every_source_of_encoders_says_what_it_takes():
    """One that leaves it out is loaded by a worker before it is known to be too short; ADAPTS has it loaded earlier."""
    for scheme in registry.names(encoders.PACKAGE):
        module = registry.load(encoders.PACKAGE, scheme)
        assert hasattr(module, "limits") != hasattr(module, "ADAPTS"), scheme
