"""Parts of a sweep, and one run made of them again."""

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.commands.merging import merge
from bench.configuration import sweep
from bench.configuration.config import Config, RunSettings, Sweep, load
from bench.errors import ConfigError, UsageError
from bench.results import store
from bench.results.schema import Record
from tests.bench._small_runs import new_run


def config(**run):
    axes = {"encoder": ["shape:tiny"], "batch_size": [2, 4, 8], "method": ["e2e", "single_step"]}
    return Config(run=RunSettings(device="cpu", **run), sweep=Sweep(item_repetition_ratio=[2.0], **axes))


def recorded(item, seconds=0.1):
    line = item.line
    return Record(
        case=item.case.axes(), method=line.method, engine=line.engine, accumulation_steps=line.accumulation_steps,
        block=item.block, exactness="exact", outcome="ok", samples_s=(seconds,),
    )  # fmt: skip


def run_of(base, settings, shard, seconds=0.1):
    run_dir = new_run(base, settings)
    for item in sweep.shard_of(sweep.plan(settings), shard):
        store.append(run_dir, recorded(item, seconds))
    return run_dir


class TestShards:
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_shards_are_all_of_the_sweep_case_by_case(self, count):
        """A case's lines stay together: speed-ups compare what one machine measured."""
        items = sweep.plan(config())
        shards = [sweep.shard_of(items, f"{number}/{count}") for number in range(1, count + 1)]
        assert sorted(map(str, sum(shards, ()))) == sorted(map(str, items))
        cases = [{item.case for item in shard} for shard in shards]
        assert sum(map(len, cases)) == len(set.union(*cases)) == 3

    @pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
    def test_no_shard(self, shard):
        with pytest.raises(ConfigError, match="expected i/n"):
            sweep.shard_of(sweep.plan(config()), shard)

    def test_more_shards_than_cases(self):
        with pytest.raises(ConfigError, match="3 cases, so this shard has none"):
            sweep.shard_of(sweep.plan(config()), "4/4")

    def test_the_command_line_plans_its_shard_only(self, tmp_path):
        (tmp_path / "x.toml").write_text(
            '[sweep]\nencoder = "shape:tiny"\nbatch_size = [2, 4]\nitem_repetition_ratio = 1'
        )
        arguments = ["run", "--config", str(tmp_path / "x.toml"), "--device", "cpu", "--dry-run", "--shard", "2/2"]
        told = CliRunner().invoke(app, arguments).output
        assert "shard 2/2" in told
        assert "batch=4" in told
        assert "batch=2" not in told


class TestMerging:
    def test_all_shards_are_the_whole_run(self, tmp_path):
        settings = config()
        runs = [run_of(tmp_path / shard[0], settings, shard) for shard in ("1/2", "2/2")]
        result = CliRunner().invoke(app, ["merge", *map(str, runs), "--out", str(tmp_path / "out")])
        assert result.exit_code == 0, result.output
        merged = store.load(tmp_path / "out" / "latest")
        assert {record.key for record in merged.records} == {item.key for item in sweep.plan(settings)}
        assert merged.info.planned_records == len(merged.records) == 6
        assert merged.info.merged_from == tuple(run.name for run in runs)
        assert merged.info.config == settings.model_dump(mode="json")
        assert (tmp_path / "out" / "latest" / "report.html").is_file()

    def test_what_is_missing_is_still_planned(self, tmp_path):
        runs = [run_of(tmp_path / shard[0], config(), shard) for shard in ("1/3", "2/3")]
        run_dir, _ = merge(runs, tmp_path / "out")
        info = store.read_info(run_dir)
        assert (len(store.load(run_dir).records), info.planned_records) == (4, 6)

    def test_equal_duplicates_count_once(self, tmp_path):
        runs = [run_of(tmp_path / name, config(), "1/2") for name in "ab"]
        run_dir, _ = merge(runs, tmp_path / "out")
        assert len(store.load(run_dir).records) == 4

    def test_duplicates_that_disagree_are_refused(self, tmp_path):
        runs = [run_of(tmp_path / name, config(), "1/2", seconds) for name, seconds in (("a", 0.1), ("b", 0.2))]
        with pytest.raises(UsageError, match=r"batch=2 .*e2e, block 0, was measured in .* differently"):
            merge(runs, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_another_configuration_is_refused(self, tmp_path):
        runs = [run_of(tmp_path / "a", config(), "1/2"), run_of(tmp_path / "b", config(seed=1), "2/2")]
        with pytest.raises(UsageError, match="its configuration is another"):
            merge(runs, tmp_path / "out")

    def test_another_machine_is_refused(self, tmp_path):
        runs = [run_of(tmp_path / name, config(), f"{number}/2") for number, name in ((1, "a"), (2, "b"))]
        info = store.read_info(runs[1])
        other = info.environment.model_copy(update={"driver": "999.0"})
        store.write_info(runs[1], info.model_copy(update={"environment": other}))
        with pytest.raises(UsageError, match=r"another kind of machine .*\(driver\)"):
            merge(runs, tmp_path / "out")

    def test_one_run_is_no_merger(self, tmp_path):
        with pytest.raises(UsageError, match="at least two"):
            merge([run_of(tmp_path, config(), "1/2")], tmp_path / "out")


def test_run_world_size_holds_in_the_whole_sweep(tmp_path):
    """The override that `verify` and `run` document: every part, whatever it says itself."""
    file = tmp_path / "x.toml"
    file.write_text('[sweep]\nencoder = "shape:tiny"\nitem_repetition_ratio = 1\n[[sweep.part]]\nworld_size = [1, 4]\n')
    plan = sweep.plan(load(file, "full", ["run.world_size=2"], "cpu"))
    assert {item.case.world_size for item in plan} == {2}
    assert {item.case.world_size for item in sweep.plan(load(file, "full", [], "cpu"))} == {1, 4}


def test_one_process_has_one_way_to_deduplicate():
    plan = sweep.plan(Config(sweep=Sweep(encoder=["shape:tiny"], world_size=[1, 2], deduplicate=["local", "global"])))
    found = {(item.case.world_size, item.case.deduplicate) for item in plan}
    assert found == {(1, "local"), (2, "local"), (2, "global")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["run.hosts=2"], "needs run.rendezvous"),
        (["run.hosts=2", "run.rendezvous=a:1", "sweep.world_size=[1,3]"], "3 processes do not divide"),
        (["train.sweep.world_size=[2]"], "trains in one process"),
        (["run.world_size=0"], "run.world_size must be at least 1"),
        (["sweep.deduplicate=everywhere"], "must be one of"),
    ],
)
def test_what_several_processes_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        load(None, "smoke", changes, "cpu")
