"""`[train]` of the configuration: how long a line trains, when it is judged, and on what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from bench.configuration.values import Count, Seconds, Table, as_list, is_steps
from bench.workloads._base import HoldOut

Rate = Annotated[StrictFloat, Field(gt=0)]


def _every(value: Any) -> Any:
    if is_steps(value):
        return value
    raise ValueError('expected a number of steps of at least 1, or a share of an epoch such as "0.25E"')


def _cold_items(value: Any) -> Any:
    if (type(value) is int and value >= 0) or (type(value) is float and 0 <= value < 1):
        return value
    raise ValueError("expected a number of items, or a share of the catalogue below 1.0")


Seeds = Annotated[tuple[Annotated[StrictInt, Field(ge=0)], ...], BeforeValidator(as_list), Field(min_length=1)]
Every = Annotated[int | str, PlainValidator(_every)]
ColdItems = Annotated[int | float, PlainValidator(_cold_items)]
Share = Annotated[StrictFloat, Field(gt=0, lt=1)]


class TrainSettings(Table):
    """Everything of `[train]` but the sweep."""

    seeds: Seeds = (0, 1, 2)
    """Each trains every line once: weights, the order of batches and their negatives, dropout. What is held out, and
    what it is asked, is run.seed's: the same for all."""
    max_epochs: Annotated[StrictFloat, Field(gt=0)] | None = 50.0
    """Of the workload, at most; None: no limit."""
    max_steps: Count | None = None
    """At most, whatever the epochs."""
    max_train_s: Seconds | None = None
    """Seconds of training for one line and seed, evaluation excluded; training then ends and counts."""
    timeout_s: Seconds = 86_400.0
    """A line that takes longer, evaluation and set-up included, is ended and recorded as `timeout`."""
    untimed_steps: Annotated[StrictInt, Field(ge=0)] = 0
    """Steps that are taken and undone before the clock starts, so that compilation and capture lie outside."""
    checkpoint_every_s: Annotated[StrictFloat, Field(ge=0)] = 0.0
    """Seconds that pass between checkpoints at least; 0: each evaluation has one. A training that is interrupted loses
    what came after its last."""
    evaluate_every: Every = "0.25E"
    """Steps from one evaluation to the next, or a share of an epoch; a method with an open interval ends it first."""
    patience: Count = 10
    """Evaluations without a new best after which training stops."""
    metric: StrictStr = "auc"
    """What a best is judged by, on the validation split."""
    schedule: Literal["constant", "noam"] = "noam"
    """Of both learning rates: constant after a linear warm-up, or falling with the square root of the step."""
    warmup_steps: Annotated[StrictInt, Field(ge=0)] = 100
    """Optimizer steps in which the rate rises to its value."""
    encoder_learning_rate: Rate | None = None
    """Left out: run.learning_rate."""
    cf_learning_rate: Rate | None = None
    validation: Share = 0.1
    """Share of the log."""
    test: Share = 0.1
    cold_items: ColdItems = 200
    """Items that are never trained on: a number, or a share of the catalogue."""
    tolerance: Annotated[StrictFloat, Field(ge=0, lt=1)] = 0.005
    """A line has reached e2e's quality where its validation metric comes this near to e2e's best of the same seed."""

    @property
    def hold_out(self) -> HoldOut:
        """What a workload keeps from training."""
        return HoldOut(self.validation, self.test, self.cold_items)

    @model_validator(mode="after")
    def _ends(self) -> TrainSettings:
        if self.schedule == "noam" and self.warmup_steps < 1:
            raise ValueError('schedule = "noam" needs warmup_steps of at least 1')
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave something to train on")
        return self
