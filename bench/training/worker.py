"""A training worker's process: builds a line, goes on from its checkpoint if there is one, trains until it stops.

After an evaluation first the checkpoint is on the disk, with the point in it, and then the manager learns of the
point. So whatever is killed, and when, training goes on from a checkpoint that is whole, and a point that was not
recorded yet is sent again from there. Where checkpoints are rarer than evaluations, or one was lost, points that had
been recorded are measured again, and void from then on. Imports nothing heavy by itself.
"""

import gc
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bench.processes import failures
from bench.processes.messages import Entered
from bench.results import store
from bench.results.analysis.tiers import TIER, WHY, fallback
from bench.results.detail import TrainingDetail
from bench.results.schema import Exactness
from bench.results.training import TrainingPoint
from bench.running.events import FellBack
from bench.training.plan import Reached, TrainJob, Unwritable
from bench.worker.entry import begin
from bench.worker.records import WEAKEST_CLAIM, line_fields

POINT = "point"
"""Where a checkpoint's facts hold the point that it was taken at."""

Say = Callable[[Any], None]


def main(connection: Connection, job: TrainJob, output: int | None = None) -> None:
    """Trains `job`, tells each phase and each point through `connection`; see `bench.worker.entry.main`."""
    begin(output)
    work(job, connection.send)


def work(job: TrainJob, say: Say) -> None:
    """The same in this process; a failure is a point like any other, with its outcome."""
    phase = "start"
    step, claim = 0, None

    def enter(begun: str, at: int) -> None:
        nonlocal phase, step
        phase, step = begun, at
        say(Entered(begun, claim, at))

    try:
        from bench.methods import exactness, method_class

        claim = exactness(method_class(job.item.line.method, job.config.run.plugins), job.config.run.dropout)
        _train(job, claim, say, enter)
    except store.UnwritableResults as error:
        say(Unwritable(str(error)))
    except Exception as error:
        failure = failures.of_exception(error, phase)
        say(Reached(failed_point(job, failure, claim, step).model_dump(mode="json")))


def _train(job: TrainJob, claim: Exactness, say: Say, enter: Callable[[str, int], None]) -> None:
    import torch

    from bench.build import assembly as builder
    from bench.machine.cores import compute_threads
    from bench.measure import clock as clocks
    from bench.training import checkpoint
    from bench.training.loop import Learner

    enter("setup", 0)
    gc.freeze()
    config, item = job.config, job.item
    device = builder.resolve_device(config.run.device)
    torch.set_num_threads(compute_threads(device.type))
    built = builder.build(config, item.work, device, training_seed=item.seed)
    sentence = fallback(item.case.axes(), item.line.engine, built.ran)
    if sentence is not None:
        say(FellBack(sentence))
    torch.manual_seed(item.seed)
    clock = clocks.CudaClock() if device.type == "cuda" else clocks.HostClock()
    learner = Learner(built, config.train, clock, item.seed)
    path = item.checkpoint(job.run_dir)
    kept = checkpoint.load(path)
    if kept is not None:
        learner.restore(kept)
        say(Reached(kept.facts[POINT]))
        if kept.facts[POINT]["outcome"] is not None:
            return
    learner.warm_up()
    saved = time.monotonic()
    while learner.stopped is None:
        enter("training", learner.step)
        learner.advance()
        enter("evaluation", learner.step)
        reached = vars(learner.evaluate())
        ended: dict[str, Any] = {"outcome": "ok", "detail": _detail(built, learner)} if learner.stopped else {}
        point = TrainingPoint(**identity(job), exactness=claim, inputs=built.inputs, **reached, **ended).model_dump(
            mode="json"
        )
        if time.monotonic() - saved >= config.train.checkpoint_every_s:
            state = learner.checkpoint()
            checkpoint.save(path, checkpoint.Checkpoint(state.tensors, {**state.facts, POINT: point}))
            saved = time.monotonic()
        say(Reached(point))


def _detail(built: Any, learner: Any) -> dict[str, Any]:
    from bench.training import checkpoint

    counts = {"interval": learner.method.interval, "parameters_sha256": checkpoint.fingerprint(learner.training)}
    counts |= dict(zip((TIER, WHY), built.ran, strict=True))
    undecidable = {"undecidable": found} if (found := learner.undecidable()) else {}
    return {**built.detail, **counts, **undecidable, "steps_per_epoch": built.workload.steps_per_epoch}


def identity(job: TrainJob) -> dict[str, Any]:
    """The columns of a point that its job decides."""
    item = job.item
    return line_fields(job.config.run, item.case, item.line) | {"seed": item.seed}


def failed_point(
    job: TrainJob, failure: failures.Failure, claim: Exactness | None, step: int, further: dict[str, Any] | None = None
) -> TrainingPoint:
    """A training that ended without an evaluation after `step` steps or more: its outcome and its reason."""
    detail = {"trace": failure.trace, **(further or {})}
    return TrainingPoint(
        **identity(job),
        exactness=claim or WEAKEST_CLAIM,
        step=step,
        train_s=0.0,
        interactions=0,
        outcome=failure.outcome,
        reason=failure.reason,
        detail=TrainingDetail(**{name: value for name, value in detail.items() if value}),
    )
