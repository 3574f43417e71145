"""bench.toml, presets and --set: what is read, and what is said about what can't be."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.configuration import config as configuration
from bench.configuration.config import load, requested_device, restore
from bench.configuration.sweep import plan
from bench.configuration.train_settings import TrainSettings
from bench.errors import ConfigError
from bench.results.analysis import stats

COMMITTED = Path(__file__).parents[3] / "bench.toml"


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> Path:
        path = tmp_path / "bench.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def complaint(path, *overrides, preset="full", device="cpu") -> str:
    with pytest.raises(ConfigError) as raised:
        load(path, preset, overrides, device)
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_speed_up_of_a_first_look_has_an_interval(device):
    """One process a line showed a newcomer 0.85x and 1.31x where exact methods do the same work."""
    config = load(COMMITTED, "quick", (), device)
    assert config.run.paired
    assert config.run.blocks >= stats.LEAST_BLOCKS
    assert all("e2e" in part.method for part in config.sweep.parts())
    lines = {(item.case, item.line) for item in plan(config)}
    assert len(lines) <= 10, "few lines in many blocks, or it is no first look"


def test_defaults_fill_what_the_file_leaves_out(write):
    config = load(write("[run]\nseed = 3\n"), "full", (), "cpu")
    assert (config.run.seed, config.run.dropout, config.sweep.cf_module) == (3, "off", ("nrms",))
    assert config.run.device == "cpu"


def test_preset_beats_file_and_override_beats_preset(write):
    path = write("[run]\nsamples = 9\nseed = 4\n")
    assert load(path, "full", (), "cpu").run.samples == 9
    preset = load(path, "smoke", (), "cpu")
    assert preset.run.samples != 9
    assert preset.run.seed == 4
    assert load(path, "smoke", ("run.samples=7",), "cpu").run.samples == 7


def test_a_preset_has_a_sweep_for_each_kind_of_device():
    for preset in ("smoke", "quick"):
        assert load(COMMITTED, preset, (), "cpu").sweep != load(COMMITTED, preset, (), "cuda").sweep


def test_presets_replace_the_parts_of_the_file(write):
    path = write("[sweep]\nitem_repetition_ratio = 2\n[[sweep.part]]\nbatch_size = 123\n")
    assert load(path, "full", (), "cpu").sweep.part[0].batch_size == (123,)
    assert all(123 not in part.batch_size for part in load(path, "quick", (), "cpu").sweep.parts())


def test_an_overridden_axis_holds_in_every_part(write):
    path = write("[[sweep.part]]\nbatch_size = 16\ntext_length = 8\n[[sweep.part]]\nbatch_size = 16\n")
    parts = load(path, "full", ("sweep.batch_size=[20,30]",), "cpu").sweep.parts()
    assert [part.batch_size for part in parts] == [(20, 30), (20, 30)]
    assert [part.text_length for part in parts] == [(8,), (32,)]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sweep.method=[e2e, single_step]", ("e2e", "single_step")),
        ('sweep.method=["e2e"]', ("e2e",)),
        ("sweep.method=e2e", ("e2e",)),
    ],
)
def test_overrides_are_toml_values_or_bare_words(override, value):
    assert load(None, "full", (override,), "cpu").sweep.method == value


def test_overrides_keep_colons_and_equals_signs(tmp_path):
    assert load(None, "full", ("sweep.encoder=shape:tiny",), "cpu").sweep.encoder == ("shape:tiny",)


def test_the_device_is_known_before_the_preset(write):
    path = write('[run]\ndevice = "cpu"\n')
    assert requested_device(path, ()) == "cpu"
    assert requested_device(path, ("run.device=cuda",)) == "cuda"
    assert requested_device(None, ()) == "auto"


@pytest.mark.parametrize("preset", configuration.presets())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_run_json_gives_the_same_configuration_back(preset, device):
    """Otherwise resume would measure something else."""
    config = load(COMMITTED, preset, (), device)
    assert restore(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("# a comment\n[sweep]\ntext_length = [\n  8, # ]\n]\nbatch_sise = [2]", 6, "sweep.batch_sise", "batch_size"),
        ("[rum]\nseed = 1", 1, "rum", "run"),
        ("[run]\n\nsead = 1", 3, "run.sead", "seed"),
        ("[[sweep.part]]\nbatch_size=2\n[[sweep.part]]\nlayer=2", 4, "sweep.part[1].layer", "layers"),
        ("model = { candidate = 1 }", 1, "model.candidate", "candidates"),
        ("[method.single_step]\nchunk_token = 2", 2, "method.single_step.chunk_token", "chunk_tokens"),
        ("[method.singel_step]\nchunk_tokens = 2", 1, "method.singel_step", "single_step"),
        ("[workload.movielen]", 1, "workload.movielen", "movielens"),
        ('[sweep]\ncf_module = "nmrs"', 2, "sweep.cf_module", "nrms"),
        ('[sweep]\nencoder = ["minilm", "minilmm"]', 2, "sweep.encoder[1]", "minilm"),
        ('[sweep]\nmethod = ["single_stp"]', 2, "sweep.method[0]", "single_step"),
        ('[sweep]\nengine = ["eagre"]', 2, "sweep.engine[0]", "eager"),
        ('[sweep]\nworkload = "syntetic"', 2, "sweep.workload[0]", "synthetic"),
    ],
)
def test_every_unknown_name_is_answered_with_the_nearest(write, text, line, key, nearest):
    message = complaint(write(text))
    assert f"bench.toml, line {line}: " in message
    assert key in message
    assert f'did you mean "{nearest}"?' in message


def test_steps_that_are_chosen_while_training_are_for_train_alone(write):
    message = complaint(write('[sweep]\naccumulation_steps = [4, "auto"]'))
    assert "bench.toml, line 2: sweep.accumulation_steps" in message
    assert "train.sweep.accumulation_steps" in message


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ('[run]\nseed = "one"', "run.seed must be a whole number", 'the string "one"'),
        ("[run]\nseed = true", "run.seed must be a whole number", "true"),
        ('[run]\nwindow_s = "long"', "run.window_s must be a number", 'the string "long"'),
        ("[sweep]\nbatch_size = [2, 2.5]", "sweep.batch_size[1] must be a whole number", "2.5"),
        ("[sweep]\nencoder = [3]", "sweep.encoder[0] must be a string", "3"),
        ("run = 3\nx = 1", "run must be a table", "3"),
        ("[run]\nbudget_s = -1.0", "run.budget_s must be above 0", "-1.0"),
        ("[sweep]\nbatch_size = 0", "sweep.batch_size[0] must be at least 1", "0"),
        ('[run]\ndropout = "on"', "run.dropout must be one of 'off' or 'shared'", 'the string "on"'),
        ('[sweep]\nlayers = "some"', "sweep.layers[0]: expected a number of layers", 'the string "some"'),
        ('[sweep]\naccumulation_steps = "half"', "sweep.accumulation_steps[0]: expected a whole number", "half"),
        ("[sweep]\naccumulation_steps = [0]", "sweep.accumulation_steps[0]: expected a whole number", "found 0"),
        ('[method.single_step]\nchunk_tokens = "x"', "method.single_step.chunk_tokens must be a whole number", "x"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected_and_found(write, text, expected, found):
    message = complaint(write(text))
    assert expected in message
    assert found in message
    assert "bench.toml, line " in message


def test_accumulation_steps_are_pointed_to_the_sweep(write):
    assert "set sweep.accumulation_steps" in complaint(write("[method.multi_step]\naccumulation_steps = 3\n"))


def test_a_mistake_in_an_override_names_the_override(write):
    path = write("[sweep]\nbatch_size = 4\n")
    assert complaint(path, "sweep.batch_size=many").startswith("--set sweep.batch_size: ")
    message = complaint(path, "sweep.batch_sise=4")
    assert message.startswith("--set sweep.batch_sise: ")
    assert 'did you mean "batch_size"?' in message


@pytest.mark.parametrize("argument", ["seed", "seed=3", "=3", "run.=3", "run..seed=3"])
def test_an_override_that_is_none_is_told_how_to_write_one(argument):
    assert "expected table.key=value" in complaint(None, argument)


@pytest.mark.parametrize("ratio", ["0.5", "0", "-2", "nan", "inf", "56", "1000"])
def test_a_ratio_below_one_or_above_the_slots_is_refused(write, ratio):
    """2 users x (50 + 5) slots: no ratio above what the slots of a batch can repeat."""
    message = complaint(write(f"[sweep]\nhistory_length = 50\nbatch_size = 2\nitem_repetition_ratio = [1, {ratio}]\n"))
    assert "bench.toml, line 4: " in message
    assert "ratio" in message


def test_an_impossible_ratio_of_a_part_is_blamed_on_that_part(write):
    text = "[sweep]\nitem_repetition_ratio = 2\n[[sweep.part]]\n[[sweep.part]]\nitem_repetition_ratio = 100000\n"
    assert "bench.toml, line 5: " in complaint(write(text))


@pytest.mark.parametrize("axis", ["workload", "encoder", "batch_size", "item_repetition_ratio", "method", "precision"])
def test_an_empty_axis_is_refused(write, axis):
    message = complaint(write(f"[sweep]\n{axis} = []\n"))
    assert f"sweep.{axis} is an empty list" in message


def test_tf32_is_refused_on_a_processor():
    assert "tf32" in complaint(None, "sweep.precision=tf32")
    load(None, "full", ("sweep.precision=tf32",), "cuda")


def test_an_absent_plugin_is_named():
    assert 'there is no package "my_methods"' in complaint(None, "run.plugins=[my_methods]")


@pytest.mark.parametrize(
    ("text", "line"), [("[run\nseed = 1", 1), ("[run]\nseed = ", 2), ('[run]\nseed = 1\nx = """\n', 3)]
)
def test_a_file_that_is_no_toml_is_named_with_its_line(write, text, line):
    assert f"bench.toml, line {line}: not valid TOML" in complaint(write(text))


def test_a_file_that_can_not_be_read_is_named(tmp_path):
    assert "absent.toml: cannot read it" in complaint(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in complaint(binary)


def test_an_unknown_preset_is_answered_with_the_nearest():
    assert 'did you mean "quick"?' in complaint(None, preset="quik")


def test_every_key_of_the_committed_file_is_explained():
    """A newcomer reads bench.toml, not the models: every key stands there, with its comment or in one."""
    text = COMMITTED.read_text(encoding="utf-8")
    for model in (
        configuration.RunSettings,
        configuration.ModelSettings,
        configuration.LoraSettings,
        configuration.SweepAxes,
        TrainSettings,
    ):
        for key in model.model_fields:
            assert any(f"\n{written}" in text for written in (f"{key} = ", f"# {key} = ", f"[model.{key}]")), key


def test_a_wrong_configuration_is_told_without_importing_torch(write):
    path = write("[method.multi_step]\nce_passes = 'two'\n")
    code = (
        "import sys; from pathlib import Path; from bench.configuration.config import load\n"
        f"try: load(Path({str(path)!r}), 'full', (), 'cpu')\n"
        "except Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["ConfigError", "False"]


@pytest.mark.parametrize("workload", registry.names("bench.workloads"))
def test_every_setting_of_a_workload_is_explained(workload):
    text = COMMITTED.read_text(encoding="utf-8").partition(f"\n[workload.{workload}]")[2].partition("\n[")[0]
    for key in registry.load("bench.workloads", workload).Settings.model_fields:
        assert f"\n{key} = " in text or f"\n# {key} = " in text, key
