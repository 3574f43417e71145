"""A training run from its configuration to its last outcome: what `gram-bench train` and `resume` share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench.commands import session
from bench.commands.dry_run import print_encodings
from bench.commands.session import Plan, Request, say
from bench.configuration import checks
from bench.configuration.config import Config
from bench.errors import ConfigError, Interrupted
from bench.inputs import contents
from bench.progress import TrainingView, count, duration
from bench.results import training
from bench.training.plan import TrainItem
from bench.training.plan import plan as trainings


def resolve(request: Request) -> tuple[Plan, tuple[TrainItem, ...]]:
    """The request on this machine and its trainings; raises UsageError."""
    plan = session.resolve(request)
    _check_metric(plan.config)
    return plan, trainings(plan.config)


def reopen(run_dir: Path) -> tuple[Config, tuple[TrainItem, ...], list[str]]:
    """What an interrupted run was to train, and warnings; raises UsageError on another machine, and where the log or
    the encoder is another one by now."""
    loaded = training.load(run_dir)
    config, changed = session.same_machine(run_dir)
    unknown = contents.refuse_changed(config.training(), run_dir, loaded.points)
    return config, trainings(config), [*loaded.warnings, *changed, *unknown]


def train(config: Config, items: Sequence[TrainItem], run_dir: Path, console: Console) -> None:
    """Trains all that `run_dir` has no outcome of, with progress on `console`; Ctrl-C says how to go on."""
    from bench.processes import fork_server
    from bench.training import manager

    try:
        fork_server.warm_fork_server(fork_server.SCORING)
        session.fetch_assets(config.training(), console)
        contents.keep(config.training(), run_dir)
        with TrainingView(console) as view:
            view.metric = config.train.metric
            manager.run(config, run_dir, items, view)
        if manager.killed(run_dir):
            say(console, f"Some workers were killed; `gram-bench resume {run_dir}` goes on from their checkpoints.")
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; every checkpoint is kept, `gram-bench resume {run_dir}` goes on from there."
        ) from None


def warnings(config: Config) -> list[str]:
    """What a reader of the results will miss."""
    without = [part for part in config.train.sweep.parts() if "e2e" not in part.method]
    return ["a part of train.sweep leaves out e2e, so nothing can be compared with it"] if without else []


def print_plan(plan: Plan, items: Sequence[TrainItem], encodings: Mapping[str, str], console: Console) -> None:
    """What `train --dry-run` prints: the lines of each case, how each encoder encodes, seeds, and when a line ends."""
    settings = plan.config.train
    say(console, plan.title)
    for case in dict.fromkeys(item.case for item in items):
        lines = dict.fromkeys(str(item.line) for item in items if item.case == case)
        say(console, f"{case}: {', '.join(lines)}")
    print_encodings(encodings, console)
    seeds = f"seed{'s' * (len(settings.seeds) > 1)} {', '.join(map(str, settings.seeds))}"
    say(console, f"{count(len(items), 'training')}, {seeds}, each in a process of its own.")
    limits = [
        f"{count(settings.patience, 'evaluation')} without a better {settings.metric}",
        *(
            [f"{settings.max_epochs:g} epoch{'s' * (settings.max_epochs != 1)}"]
            if settings.max_epochs is not None
            else []
        ),
        *([count(settings.max_steps, "step")] if settings.max_steps is not None else []),
        *([f"{duration(settings.max_train_s)} of training"] if settings.max_train_s is not None else []),
    ]
    say(console, f"Each is evaluated every {settings.evaluate_every} and ends after {' or '.join(limits)}.")


def _check_metric(config: Config) -> None:
    """A best must be judged by something that every swept CF module's task has."""
    from bench.metrics import _base as metrics

    judges = metrics.load(config.train.metric).TASKS
    for part in config.train.sweep.parts():
        for cf_module in part.cf_module:
            task = checks.task_of(cf_module)
            if task not in judges:
                raise ConfigError(
                    f"train.metric: {config.train.metric} judges {' and '.join(judges)} only, and {cf_module} does "
                    f"{task}; auc judges both."
                )
