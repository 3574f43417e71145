"""`gram-bench profile`: where does a step's time go, and how far is it from what the device could do?

Every line of one case, one after the other in this process: its step time, the phases of a step, the kernels that take
most, and the floor max(useful operations / matrix rate, fewest bytes / bandwidth), with both rates measured here.
A captured step is profiled twice: replayed, for kernels and waiting, and uncaptured, for the phases that launch them.
"""

import gc
import json
import re
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity

from bench.build.assembly import resolve_device
from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.machine.memory import peak_memory
from bench.measure.flops import Rates, compute_dtype, measure_rates, optimizer_bytes, useful_flops
from bench.measure.trace import Trace, read_trace
from bench.processes.messages import Job
from bench.results.analysis.tiers import fallback
from bench.results.schema import PeakMemory
from bench.worker.subject import Subject
from gram_core.phases import PHASES

UNITS = 3
"""Units (steps, or a method's intervals) under the profiler."""
SHOWN = 15


@dataclass(frozen=True)
class Profile:
    """One line of a case. Times in seconds per step.

    phases_s: device time by the phase that launched it, host time on a CPU; "outside" belongs to none.
    waiting_s: wall-clock in which the device had nothing to do, at most (see `waiting`); None on a CPU. kernels: name,
    calls and seconds per step. floor_s: the larger of the two terms next to it.
    """

    line: str
    step_s: float
    phases_s: dict[str, float]
    device_s: float | None
    waiting_s: float | None
    kernels: tuple[tuple[str, float, float], ...]
    flops: float
    optimizer_bytes: int
    rates: Rates
    compute_floor_s: float
    traffic_floor_s: float
    peak_memory_bytes: PeakMemory

    @property
    def floor_s(self) -> float:
        """What no implementation can run much faster than."""
        return max(self.compute_floor_s, self.traffic_floor_s)

    @property
    def utilisation(self) -> float:
        """Useful operations per second over the measured matrix rate."""
        return self.flops / self.step_s / self.rates.matrix_flops_per_s


def profile(config: Config, items: tuple[WorkItem, ...], out: Path, console: Console) -> tuple[Profile, ...]:
    """Profiles every item (lines of one case); writes traces and profile.json into the folder `out`, prints tables."""
    found = []
    for item in items:
        found.append(_profile(config, item, out, console))
        print_profile(found[-1], console)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    lines = [asdict(one) | {"peak_memory_bytes": one.peak_memory_bytes.model_dump()} for one in found]
    facts = {"case": items[0].case.axes(), "lines": lines}
    (out / "profile.json").write_text(json.dumps(facts, indent=1) + "\n")
    return tuple(found)


def _profile(config: Config, item: WorkItem, out: Path, console: Console) -> Profile:
    device = resolve_device(config.run.device)
    subject = Subject(Job(config, item))
    subject.set_up()
    sentence = fallback(item.case.axes(), item.line.engine, subject.built.ran)
    if sentence is not None:
        console.print(f"warning: {sentence}", highlight=False, markup=False, soft_wrap=True)
    subject.warm_up()
    subject.take_windows()
    step_s = statistics.median(window.step_s for window in subject.windows)
    steps = UNITS * subject.built.method.interval
    name = re.sub(r"[^\w.=-]+", "-", f"{item.line.method}-{item.line.engine}")
    replayed = _traced(lambda: subject.steps(UNITS), out / f"{name}.trace.json", device)
    phases = replayed
    graphs = subject.built.graphs
    if graphs and device.type == "cuda":
        with ExitStack() as stack:
            for function in graphs.functions:
                stack.enter_context(function.uncaptured())
            phases = _traced(lambda: subject.steps(UNITS), out / f"{name}.uncaptured.trace.json", device)
    training, method = subject.built.training, subject.built.method
    peak = peak_memory(device)  # before operations are counted, which takes memory of its own
    flops = useful_flops(method, training, subject.recent_batches(steps))
    rates, traffic = measure_rates(device, compute_dtype(training)), optimizer_bytes(training)
    device_s = None if replayed.device_s is None else replayed.device_s / steps
    return Profile(
        line=f"{item.line.method} ({item.line.engine})",
        step_s=step_s,
        phases_s={phase: seconds / steps for phase, seconds in phases.phases_s.items()},
        device_s=device_s,
        waiting_s=None if device_s is None else waiting(step_s, device_s, replayed.idle_s or 0.0, UNITS, steps),
        kernels=tuple((k.name, k.calls / steps, k.seconds / steps) for k in replayed.kernels),
        flops=flops,
        optimizer_bytes=traffic,
        rates=rates,
        compute_floor_s=flops / rates.matrix_flops_per_s,
        traffic_floor_s=traffic / rates.bytes_per_s,
        peak_memory_bytes=peak,
    )


def waiting(step_s: float, device_s: float, idle_s: float, units: int, steps: int) -> float:
    """The most that a device can have waited in a step.

    step_s: of a step that was not traced; device_s: work of a traced one; idle_s: gaps in a trace of `units` intervals,
    of `steps` steps in all. Both bound it. Gaps are no shorter for the tracing; the one behind the last interval is not
    in the trace, so that one interval less shares them. And the work of a few traced steps takes no longer than that of
    many, for which clocks may fall, so that it leaves no less of a step.
    """
    return min(max(0.0, step_s - device_s), idle_s * units / (steps * (units - 1)))


def _traced(work: Callable[[], object], path: Path, device: torch.device) -> Trace:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    profiler.export_chrome_trace(str(path))
    return read_trace(path)


def print_profile(profile: Profile, console: Console) -> None:
    """One line's tables: phases, kernels, floor."""
    console.print(f"\n[bold]{profile.line}[/bold]: {_ms(profile.step_s)} ms per step", highlight=False)
    total = sum(profile.phases_s.values()) or 1.0
    phases = Table("phase", "ms per step", "share", "what", box=box.SIMPLE)
    for name, seconds in sorted(profile.phases_s.items(), key=lambda entry: -entry[1]):
        words = PHASES.get(name, "in no phase: loss copies, buffers")  # type: ignore[call-overload]
        phases.add_row(name, _ms(seconds), f"{seconds / total:.0%}", words)
    if profile.waiting_s is not None:
        phases.add_row("waiting", _ms(profile.waiting_s), "", "the device had nothing to do, at most")
    console.print(phases)
    kernels = Table("kernel" if profile.device_s is not None else "operator", "calls", "ms per step", box=box.SIMPLE)
    for name, calls, seconds in profile.kernels[:SHOWN]:
        kernels.add_row(name[:90], f"{calls:g}", _ms(seconds))
    console.print(kernels)
    rates, traffic = profile.rates, profile.optimizer_bytes / 1e9
    console.print(
        f"floor {_ms(profile.floor_s)} ms, the larger of {profile.flops / 1e12:.3g} TFLOP at "
        f"{rates.matrix_flops_per_s / 1e12:.3g} TFLOP/s ({rates.matrix}) and {traffic:.3g} GB of parameters and "
        f"optimizer state at {rates.bytes_per_s / 1e12:.3g} TB/s; the step takes "
        f"{profile.step_s / profile.floor_s:.2f} times that and does useful work at {profile.utilisation:.0%} of "
        "the matrix rate",
        highlight=False,
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
