"""Coefficients of this device: a few designed steps, measured as a run measures its lines, and the cost model fitted.

In one process; on a CPU smallest memory first, so that each step's peak is its own where it is higher than all before.
"""

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psutil
import torch

from bench.build.assembly import build_workload, cf_module_class, resolve_device
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.encoders._base import LoadedEncoder
from bench.errors import BenchError, UsageError
from bench.machine import environment
from bench.machine.memory import resident_peak_bytes
from bench.measure.flops import matrix_rate, median_s
from bench.planning import cost, design, shapes
from bench.planning.coefficients import Calibration, Key, MemoryFactor, Sample
from bench.planning.counts import of_batches
from bench.planning.memory import step_memory
from bench.planning.shapes import CFShape, EncoderShape
from bench.planning.work import BACKWARD, Line, Step, Work, step_work
from bench.processes.messages import Job
from bench.results.schema import Environment
from bench.worker.subject import Subject
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.general import GeneralEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.protocols import ItemSource

SECONDS = 90.0
"""A calibration of all engines ends within this."""
RESERVE = 0.85
"""Part of it that probes may fill; the rest is loading and fitting."""
LARGEST_STEP_S = {"cpu": 0.5, "cuda": 0.1}
OVER_SMALLEST = 3.0
"""The largest step takes at least so many times the smallest, in which what does not grow with the texts prevails."""
EFFICIENCY = 0.4
"""Of the matrix rate, to size the largest step by."""
MEMORY_SHARE = 0.3
"""Of the memory that is free, which the largest step may take by its shapes."""
LEAST_BYTES = 2**26
"""Of a step by its shapes, from which its peak says something of them: below, it is libraries'."""
FEWEST = 5
"""Measured probes that a fit needs."""
COPY = {"cpu": 2**22, "cuda": 2**26}
"""Numbers of the copy that memory's rate is measured by."""
PASSES_PER_LAYER = 20.0
"""Reads and writes of a layer's states by all that is no product, a guess that measured steps correct."""
LAUNCH_S = {"cpu": 5e-5, "cuda": 5e-5}
"""A layer's launches, likewise, and the rest of a step:"""
STEP_S = {"cpu": 2e-3, "cuda": 1e-3}
SLOT_S = 1e-7


@dataclass(frozen=True)
class Measured:
    """A probe's step, and its peak in bytes; on a CPU where it was higher than all before."""

    item: WorkItem
    work: Work
    seconds: float
    shape_bytes: float
    peak_bytes: float | None


def key_of(config: Config, case: Case, shape: EncoderShape, engine: str, facts: Environment) -> Key:
    """What coefficients for this case on this machine would be kept under."""
    return Key(
        device=facts.device,
        device_kind=facts.device_kind,
        cores=facts.cpu_cores if facts.device_kind == "cpu" else None,
        torch=facts.libraries.get("torch", "unknown").partition("+")[0],
        precision=case.precision,
        engine=engine,
        tier=shape.tier,
        family=shape.family,
        width=shape.width,
    )


def calibrate(config: Config, case: Case, engine: str, seconds: float = SECONDS) -> tuple[Calibration, list[str]]:
    """Measures and fits; notes say what was left out.

    Raises UsageError where the case cannot be built, BenchError where too little was measured.
    """
    started = time.monotonic()
    facts = environment.describe("cuda" if config.run.device == "cuda" else "cpu")
    kind, device = facts.device_kind, resolve_device(config.run.device)
    task = cf_module_class(case.cf_module).task
    try:
        loaded = shapes.load(config, case)
    except ValueError as error:
        raise UsageError(f"{case}: {error}") from error
    shape = shapes.encoder_shape(config, case, engine, loaded)
    shape = shapes.with_kept(shape, config, case, _texts(config, case, loaded))
    cf = shapes.cf_shape(config, case, shape.width)
    priors = physical_rates(device, kind, shapes.compute_dtype(case.precision))
    probes = design.PROBES
    short = design.configuration(config, RESERVE * seconds / len(probes) / 2)
    product_s = priors["device"]["product_flops"]
    tokens = _largest(product_s, shape, kind, LARGEST_STEP_S[kind])
    base = float(resident_peak_bytes() or 0) if kind == "cpu" else 0.0
    taken: list[Measured] = []
    notes: list[str] = []
    for place, probe in enumerate(probes):
        left = RESERVE * seconds - (time.monotonic() - started)
        longest_yet = (time.monotonic() - started) / place if place else 0.0
        if left < longest_yet:
            notes.append(f"{len(probes) - place} probes are left out for time")
            break
        item = design.item_of(probe, case, engine, tokens, loaded.longest_text, config.model.candidates, task)
        try:
            design.check(item, short, task)
            highest = max((each.peak_bytes or 0.0 for each in taken), default=base) if kind == "cpu" else 0.0
            taken.append(_measure(short, item, shape, cf, kind, highest))
        except torch.OutOfMemoryError:
            notes.append(f"left out, for want of memory: {item}")
        except ValueError as error:
            raise UsageError(f"{item}: {error}") from error
        gc.collect()
        if kind == "cuda":
            torch.cuda.empty_cache()
        if place == 0 and taken:
            wanted_s = min(max(LARGEST_STEP_S[kind], OVER_SMALLEST * taken[0].seconds), short.run.budget_s / 4)
            tokens = _largest(product_s, shape, kind, wanted_s)
    if len(taken) < FEWEST:
        raise BenchError(
            f"only {len(taken)} steps were measured in {seconds:g} s, and a fit needs {FEWEST}: raise --seconds, take "
            "fewer layers (--set sweep.layers=[2]), or wait until nothing else runs here"
        )
    made = fitted(
        key_of(config, case, shape, engine, facts),
        taken,
        priors,
        base,
        facts.host_memory_bytes if kind == "cpu" else facts.device_memory_bytes,
        time.monotonic() - started,
    )
    return made, notes


def fitted(
    key: Key,
    taken: Sequence[Measured],
    priors: Mapping[str, Mapping[str, float]],
    base: float,
    device_memory_bytes: int | None,
    seconds: float,
    measured_at: datetime | None = None,
) -> Calibration:
    """What measured steps make of the cost model. base: bytes that the process held before; seconds: that measuring
    took; measured_at: None is now. Raises ValueError for fewer than three steps."""
    costs = cost.fit([each.work for each in taken], [each.seconds for each in taken], key.device_kind, priors)
    return Calibration(
        key=key,
        device_coefficients=dict(costs.device),
        host_coefficients=dict(costs.host),
        log_sd=costs.log_sd,
        dof=costs.dof,
        least_flops=costs.least,
        most_flops=costs.most,
        memory=memory_factor(taken, base),
        device_memory_bytes=device_memory_bytes,
        samples=tuple(
            Sample(case=str(each.item), measured_s=each.seconds, fitted_s=costs.step_s(each.work)) for each in taken
        ),
        seconds=seconds,
        measured_at=(measured_at or datetime.now(UTC)).isoformat(timespec="seconds"),
    )


def _texts(config: Config, case: Case, loaded: LoadedEncoder) -> ItemSource:
    """Random texts of the case's length."""
    short = design.configuration(config, 1.0)
    probe = replace(case, workload="synthetic", item_repetition_ratio=1.0, batch_size=1)
    return build_workload(short, probe, loaded, cf_module_class(case.cf_module).task).table


def physical_rates(device: torch.device, kind: str, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Seconds per unit of each term as the device's own rates have it: what coefficients are held near."""
    product_s = 1 / matrix_rate(device, dtype, 4096 if kind == "cuda" else 1024)
    source = torch.zeros(COPY[kind], device=device)
    target = torch.empty_like(source)
    byte_s = median_s(lambda: target.copy_(source), device) / (2 * source.nbytes)
    return rates_of(product_s, byte_s, kind)


def rates_of(product_s: float, byte_s: float, kind: str) -> dict[str, dict[str, float]]:
    """Seconds per unit of each term, from those of an operation of a matrix product and of a byte copied."""
    of_device = {
        "product_flops": product_s,
        "attention_flops": 3 * product_s,
        "element_bytes": PASSES_PER_LAYER * byte_s,
        "optimizer_bytes": byte_s,
        "cf_flops": 3 * product_s,
        "launches": LAUNCH_S[kind],
        "step": STEP_S[kind],
    }
    return {"device": of_device, "host": {"launches": LAUNCH_S[kind], "slots": SLOT_S, "step": STEP_S[kind]}}


def _largest(product_s: float, shape: EncoderShape, kind: str, step_s: float) -> float:
    """Tokens of the largest step, which is to take so long."""
    by_time = step_s * EFFICIENCY / product_s / ((1 + BACKWARD) * shape.token_flops)
    free = float(torch.cuda.mem_get_info()[0]) if kind == "cuda" else float(psutil.virtual_memory().available)
    roughly = shape.layers * 16 * shape.width * shape.element_bytes
    return max(64.0, min(by_time, MEMORY_SHARE * free / roughly))


def _measure(config: Config, item: WorkItem, shape: EncoderShape, cf: CFShape, kind: str, before: float) -> Measured:
    held = _begin_peak(kind)
    subject = Subject(Job(config, item))
    subject.set_up()
    found = tier_built(subject.built.encoder)
    if found != shape.tier:
        raise BenchError(f"{item} ran {found} where {shape.tier} was expected; this is a bug of the harness")
    subject.warm_up()
    subject.take_windows()
    peak = _peak(kind) - held
    steps = subject.built.method.interval
    batches = subject.recent_batches(steps * max(1, len(subject.recent_batches(1 << 30)) // steps))
    batch, interval = of_batches(batches, subject.built.workload.table, steps)
    run, case = config.run, item.case
    line = Line(item.line.method, item.line.engine, steps)
    asked = Step(line, shape, cf, batch, interval, run.optimizer, run.padding, case.text_length, kind)
    times = [window.step_s for window in subject.windows]
    seconds = min(times) if kind == "cpu" else statistics.median(times)  # neighbours only ever slow a CPU's step
    return Measured(item, step_work(asked), seconds, step_memory(asked).peak, peak if peak > before else None)


def tier_built(encoder: object) -> str:
    """The tier of an encoder as a method runs it."""
    if isinstance(encoder, PackedEncoder):
        return "packed"
    if isinstance(encoder, GeneralEncoder):
        return "general"
    return "bucketed" if isinstance(encoder, BucketedEncoder) else "padded"


def _begin_peak(kind: str) -> float:
    """Bytes that probes before have left allocated. The allocator's peak begins anew: whatever the next probe's graphs
    hold it still has to allocate."""
    if kind == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return float(torch.cuda.memory_allocated())


def _peak(kind: str) -> float:
    """The most bytes so far: of the allocator since `_begin_peak`, of the process on a CPU."""
    return float(torch.cuda.max_memory_allocated() if kind == "cuda" else resident_peak_bytes() or 0)


def memory_factor(taken: Sequence[Measured], base: float) -> MemoryFactor:
    """Ratios of measured peaks, less what the process held before, to those from shapes."""
    ratios = sorted(
        (each.peak_bytes - base) / each.shape_bytes
        for each in taken
        if each.peak_bytes is not None and each.shape_bytes >= LEAST_BYTES
    )
    if not ratios:
        return MemoryFactor(base_bytes=base)
    return MemoryFactor(
        base_bytes=base, low=ratios[0], middle=statistics.median(ratios), high=ratios[-1], samples=len(ratios)
    )
