"""Seconds from work: a step takes as long as the device computes or the host launches, whichever is longer.

    device_s = sum_j a_j x work_j     host_s = sum_j b_j x work_j     step_s = max(device_s, host_s)

On a CPU host and device are one: step_s = device_s, whose terms then hold the launches too. Coefficients are not
negative. Each term's physical rate, measured with the steps, is what a coefficient is held near where the measured
steps say little of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares, nnls

from bench.planning.work import Work

DEVICE_TERMS = {
    "cpu": ("product_flops", "attention_flops", "element_bytes", "optimizer_bytes", "cf_flops", "launches", "step"),
    "cuda": ("product_flops", "attention_flops", "element_bytes", "optimizer_bytes", "cf_flops", "step"),
}
HOST_TERMS: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("launches", "slots", "step")}
PRIOR_WEIGHT = 0.05
"""How firmly a coefficient is held at its physical rate, in parts of one measured step's weight."""
CONFIDENCE = 0.9
LEAST_SD = 0.01
BEYOND = 0.08
"""Growth of the error per e-fold that a step's work lies beyond the measured ones."""
POWERS = (4.0, 16.0, math.inf)
HOST_STARTS = (0.1, 1.0, 10.0)
LOG_PRIOR_WEIGHT = 0.01
"""The same of a coefficient's logarithm, where the host's terms are fitted too."""
REWEIGHTED, HUBER = 4, 2.0
"""Rounds of least squares in which errors beyond so many medians count less, as a busy machine's do."""
FENCE = 3.0
"""Standard deviations, by the median's, beyond which an error counts as so many."""


@dataclass(frozen=True)
class Costs:
    """Seconds per unit of each term. log_sd: of ln(measured / forecast) for steps that the fit has not seen; dof: its
    degrees of freedom; least, most: product_flops of the steps that were measured."""

    device_kind: str
    device: Mapping[str, float]
    host: Mapping[str, float]
    log_sd: float = 0.0
    dof: int = 1
    least: float = 0.0
    most: float = math.inf

    def device_s(self, work: Work) -> float:
        """What the device computes."""
        return _total(self.device, work)

    def host_s(self, work: Work) -> float:
        """What the host launches; 0 on a CPU, whose device does it."""
        return _total(self.host, work)

    def step_s(self, work: Work) -> float:
        """Seconds of a step."""
        return max(self.device_s(work), self.host_s(work))

    def error(self, work: Work, counts_error: float = 0.0) -> float:
        """The standard error of ln(step): the fit's, wider beyond the measured range, and that of the counts."""
        beyond = 0.0
        if work.product_flops > 0 and self.least > 0:
            beyond = max(0.0, math.log(work.product_flops / self.most), math.log(self.least / work.product_flops))
        return math.sqrt(self.log_sd**2 + (BEYOND * beyond) ** 2 + counts_error**2)

    def factor(self, error: float) -> float:
        """By what a forecast is multiplied and divided to hold 90 % of steps."""
        return math.exp(float(stats.t.ppf((1 + CONFIDENCE) / 2, max(1, self.dof))) * error)


def _spread(residuals: Sequence[float]) -> float:
    """The standard deviation around 0, with outliers drawn in to `FENCE`."""
    sizes = np.abs(np.array(residuals))
    fenced = np.minimum(sizes, FENCE * 1.4826 * float(np.median(sizes)))
    return float(np.sqrt(np.mean(fenced**2)))


def _value(work: Work, term: str) -> float:
    return 1.0 if term == "step" else float(getattr(work, term))


def _total(coefficients: Mapping[str, float], work: Work) -> float:
    return sum(each * _value(work, term) for term, each in coefficients.items())


def fit(
    works: Sequence[Work], seconds: Sequence[float], device_kind: str, priors: Mapping[str, Mapping[str, float]]
) -> Costs:
    """Coefficients with the least squared relative errors; the error is that of steps left out one at a time.

    priors: "device" and "host", seconds per unit of each term, above 0. Raises ValueError for fewer than three steps.
    """
    if len(works) < 3 or len(works) != len(seconds):
        raise ValueError(f"{len(works)} steps and {len(seconds)} times: a fit needs at least three of each")
    device, host = _solve(works, seconds, device_kind, priors)
    residuals = []
    for place in range(len(works)):
        rest = [each for each in range(len(works)) if each != place]
        left_out = Costs(
            device_kind,
            *_solve([works[each] for each in rest], [seconds[each] for each in rest], device_kind, priors),
        )
        residuals.append(math.log(seconds[place] / left_out.step_s(works[place])))
    used = sum(value > 0 for value in (*device.values(), *host.values()))
    dof = max(2, len(works) - used)
    log_sd = _spread(residuals)
    sizes = [work.product_flops for work in works]
    return Costs(device_kind, device, host, max(LEAST_SD, log_sd), dof, min(sizes), max(sizes))


def _solve(
    works: Sequence[Work], seconds: Sequence[float], device_kind: str, priors: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Without host terms non-negative least squares of relative errors. With them which steps the host limits is
    unknown: the larger of both sums is approached by their p-norm, p growing, from a fast and from a slow host."""
    device_terms, host_terms = DEVICE_TERMS[device_kind], HOST_TERMS[device_kind]
    if not host_terms:
        return _least_squares(works, seconds, device_terms, priors["device"]), {}
    times = np.array(seconds)
    device, host = (
        _rows(works, terms, priors[name]) for terms, name in ((device_terms, "device"), (host_terms, "host"))
    )
    middle = float(np.median(times))
    of_device, of_host = (math.log(middle / float(np.median(rows.sum(axis=1)))) for rows in (device, host))

    def step(logs: NDArray[np.float64], power: float) -> NDArray[np.float64]:
        sums = device @ np.exp(logs[: len(device_terms)]), host @ np.exp(logs[len(device_terms) :])
        larger = np.maximum(*sums)
        return (
            larger
            if math.isinf(power)
            else larger * ((sums[0] / larger) ** power + (sums[1] / larger) ** power) ** (1 / power)
        )

    best: tuple[float, NDArray[np.float64]] | None = None
    for slower in HOST_STARTS:
        logs = np.array([of_device] * len(device_terms) + [of_host + math.log(slower)] * len(host_terms))
        for power in POWERS:

            def errors(logs: NDArray[np.float64], power: float = power) -> NDArray[np.float64]:
                return np.concatenate([np.log(step(logs, power) / times), LOG_PRIOR_WEIGHT * logs])

            found = least_squares(errors, logs, loss="soft_l1", f_scale=0.1, max_nfev=100)
            logs = found.x
        if best is None or found.cost < best[0]:
            best = (float(found.cost), logs)
    assert best is not None, "there are beginnings"
    values = np.exp(best[1])
    return _named(device_terms, values[: len(device_terms)], priors["device"]), _named(
        host_terms, values[len(device_terms) :], priors["host"]
    )


def _named(terms: Sequence[str], values: NDArray[np.float64], priors: Mapping[str, float]) -> dict[str, float]:
    return {term: float(value) * priors[term] for term, value in zip(terms, values, strict=True)}


def _rows(works: Sequence[Work], terms: Sequence[str], priors: Mapping[str, float]) -> NDArray[np.float64]:
    """Terms in seconds by the priors, [steps, terms]."""
    return np.array([[_value(work, term) * priors[term] for term in terms] for work in works])


def _least_squares(
    works: Sequence[Work], seconds: Sequence[float], terms: Sequence[str], priors: Mapping[str, float]
) -> dict[str, float]:
    """In units of the priors, so that one weight holds them all alike."""
    rows = _rows(works, terms, priors) / np.array(seconds)[:, None]
    held, target = PRIOR_WEIGHT * np.eye(len(terms)), np.full(len(terms), PRIOR_WEIGHT)
    weights = np.ones(len(works))
    for _ in range(REWEIGHTED):
        found, _ = nnls(np.vstack([weights[:, None] * rows, held]), np.concatenate([weights, target]))
        errors = np.abs(rows @ found - 1)
        limit = max(HUBER * float(np.median(errors)), LEAST_SD)
        weights = np.sqrt(np.minimum(1.0, limit / np.maximum(errors, limit)))
    return _named(terms, found, priors)
