"""What a run prints while it goes on: numbers and words as one reads them, a training by its best evaluation."""

import io

import pytest
from rich.console import Console

from bench.configuration.case import Case
from bench.configuration.sweep import MethodLine, WorkItem
from bench.progress import ProgressView, TrainingView, count, significant
from bench.results.training import TrainingPoint
from bench.running import events as training
from bench.running.events import Finished, Planned
from bench.training.plan import TrainItem
from tests.reports import _runs

CASE = Case(
    workload="synthetic", encoder="shape:tiny", cf_module="nrms", layers=None, batch_size=2, history_length=3,
    text_length=4, item_repetition_ratio=None, precision="float32",
)  # fmt: skip


def lines(view_class, *events, **attributes):
    console = Console(file=io.StringIO(), width=300)
    with view_class(console) as view:
        for name, value in attributes.items():
            setattr(view, name, value)
        for event in events:
            view(event)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (11_190.0, "11,190"),
        (11_194.0, "11,190"),
        (9_999.6, "10,000"),
        (77.123, "77.12"),
        (0.012345, "0.01235"),
        (1, "1.000"),
    ],
)
def test_numbers_are_written_without_an_exponent(value, written):
    assert significant(value) == written


def test_one_of_a_thing_is_singular():
    assert [count(amount, "training") for amount in (0, 1, 2, 1_000)] == [
        "0 trainings",
        "1 training",
        "2 trainings",
        "1,000 trainings",
    ]
    assert lines(ProgressView, Planned(1, 0)) == ["1 measurement to take"]
    assert lines(TrainingView, training.Planned(1, 2)) == ["1 training to do, 2 are done already"]


def test_a_step_of_eleven_seconds_is_written_in_digits():
    record = _runs.record(samples_s=(11.19, 11.19, 11.19))
    (line,) = lines(ProgressView, Finished(WorkItem(CASE, MethodLine("e2e", "eager")), record, 1, 1, 1.0, None))
    assert " 11,190 ms/step " in line


ITEM = TrainItem(CASE, MethodLine("e2e", "eager"), 0)


def point(step, auc, outcome=None):
    known = {"case": CASE.axes(), "method": "e2e", "engine": "eager", "seed": 0, "exactness": "exact"}
    quality = {} if auc is None else {"auc": auc}
    return TrainingPoint(**known, step=step, train_s=step, interactions=step, validation=quality, outcome=outcome)


def ended(points, earlier=()):
    started = training.Started(ITEM, 1, 1, None, tuple(earlier))
    reached = [training.PointReached(ITEM, each) for each in points]
    return lines(TrainingView, started, *reached, training.Finished(ITEM, points[-1], 1, 1, 0.0, None))[-1]


class TestLastLineOfATraining:
    """Its best, which the results speak of, and not what it came to after patience ran out."""

    def test_best_and_end(self):
        line = ended([point(10, 0.6), point(20, 0.7), point(30, 0.65, "ok")])
        assert "ok      best auc 70.0 at step 20 in 20 s, ended at step 30" in line

    def test_the_last_may_be_the_best(self):
        assert "best auc 70.0 at step 20 in 20 s, synthetic" in ended([point(10, 0.6), point(20, 0.7, "ok")])

    def test_the_best_of_a_former_call_counts(self):
        line = ended([point(30, 0.65), point(40, 0.64, "ok")], earlier=[point(10, 0.8), point(20, 0.7)])
        assert "best auc 80.0 at step 10" in line

    def test_a_metric_that_was_never_defined_has_no_best(self):
        line = ended([point(10, None), point(20, float("nan"), "ok")])
        assert "best" not in line
        assert "at step 20" in line
