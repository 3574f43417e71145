"""How many CF steps an interval of Multi-step GRAM has, chosen while training ("auto").

The paper leaves the accumulation steps N as one more hyperparameter and names their choice as future work. Two things
bound it. A longer interval is worth taking only while the encoder costs a good part of the time, for
    encoder_share = CE / (CE + N * CF)
falls as N grows. And it is safe only while the moved encodings, which the CF module learned on, stay close to what
the encoder says once it has learned from them: the relative drift
    drift = |moved - fresh| / |fresh - mean fresh|      (root of sums of squares over a sample of the items touched)
says how far apart they lie, in units of how far items lie from each other. N doubles while both allow it, halves where
drift is over its limit, and stays otherwise. Costs are counted in tokens. What a CF step costs in tokens is given, or
measured once in the first steps; from there on the same training chooses the same N again.

n items sampled, d width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

FORWARD_COST = 1 / 3
"""Of a token that is encoded without a graph, beside one that is encoded and back-propagated."""


def relative_drift(moved: Tensor, fresh: Tensor) -> float:
    """How far moved encodings [n, d] lie from fresh ones [n, d], over how far fresh ones lie from their mean.

    Infinite where the fresh ones are all alike and the moved ones are not; 0 where both are.
    """
    apart = (moved - fresh).double().norm()
    spread = (fresh - fresh.mean(dim=0)).double().norm()
    return float(apart / spread) if spread > 0 else float("inf") * float(apart) if apart > 0 else 0.0


@dataclass
class AdaptiveInterval:
    """N, from what each interval's end shows.

    steps: N now. most: N never exceeds it. drift_limit, encoder_share: as above; doubling is expected to double the
    drift, so N grows only from half its limit. cf_step_tokens: what one CF step costs, in tokens encoded and
    back-propagated in the same time; N stays 1 until it is known. Raises ValueError where a bound makes no sense.
    """

    most: int
    drift_limit: float = 0.1
    encoder_share: float = 0.25
    cf_step_tokens: float | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        costs = self.cf_step_tokens is None or self.cf_step_tokens > 0
        if not (costs and self.most >= 1 and self.drift_limit > 0 and 0 < self.encoder_share < 1):
            raise ValueError(
                "accumulation_steps 'auto' needs cf_step_tokens > 0, most_steps >= 1, drift_limit > 0 and an "
                f"encoder_share between 0 and 1, not {self.cf_step_tokens}, {self.most}, {self.drift_limit} and "
                f"{self.encoder_share}"
            )

    def share(self, encoded_tokens: float, trained_tokens: float) -> float:
        """The encoder's part of an interval's cost, from tokens encoded without and with a backward pass."""
        encoder = trained_tokens + FORWARD_COST * encoded_tokens
        return encoder / (encoder + self.steps * (self.cf_step_tokens or float("inf")))

    def observe(self, drift: float, encoded_tokens: float, trained_tokens: float) -> None:
        """Chooses the next N after an interval of `steps` steps."""
        if drift > self.drift_limit:
            self.steps = max(1, self.steps // 2)
        elif drift <= self.drift_limit / 2 and self.share(encoded_tokens, trained_tokens) > self.encoder_share:
            self.steps = min(self.most, 2 * self.steps)


@dataclass
class StepCosts:
    """Measures what a CF step costs in tokens of the encoder, on a training's own first steps.

    clock: seconds now, with all work on the device done.
    """

    clock: Callable[[], float]
    cf_s: list[float] = field(default_factory=list)
    ce_s_per_token: list[float] = field(default_factory=list)

    WARM_UP = 2
    """Measurements of each kind that don't count, and"""
    COUNTED = 5
    """how many do."""

    @contextmanager
    def cf_step(self) -> Iterator[None]:
        """Within, one CF step runs."""
        started = self.clock()
        yield
        self.cf_s.append(self.clock() - started)

    @contextmanager
    def ce_step(self, tokens: float) -> Iterator[None]:
        """Within, the encoder encodes so many tokens, back-propagates and moves."""
        started = self.clock()
        yield
        self.ce_s_per_token.append((self.clock() - started) / tokens)

    @property
    def cf_step_tokens(self) -> float | None:
        """None until there are measurements enough."""
        if min(len(self.cf_s), len(self.ce_s_per_token)) < self.WARM_UP + self.COUNTED:
            return None
        return median(self.cf_s[self.WARM_UP :]) / median(self.ce_s_per_token[self.WARM_UP :])


def evenly(items: Tensor, count: int) -> Tensor:
    """At most `count` of `items` [n], evenly spaced."""
    if len(items) <= count:
        return items
    return items[torch.linspace(0, len(items) - 1, count).round().long()]
