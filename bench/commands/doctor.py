"""Is this machine fit to measure on? Every check says what it found and, where that is bad, what to do."""

import importlib.metadata
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.inputs import assets
from bench.machine.cores import multiplies_bf16, usable_cores
from bench.machine.environment import cuda_obstacle, describe, library_versions
from bench.machine.nvml import device_handle
from bench.results.schema import Environment

Status = Literal["ok", "warning", "problem"]

GIB = 2**30
NEEDED_MEMORY_BYTES = 2 * GIB
COMFORTABLE_MEMORY_BYTES = 6 * GIB
NEEDED_DISK_BYTES = GIB // 4
COMFORTABLE_DISK_BYTES = 2 * GIB
CALM_LOAD = 0.3
"""Load per core from which others disturb times."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; advice is empty where all is well."""

    check: str
    status: Status
    found: str
    advice: str = ""


def examine(runs: Path = Path("runs")) -> tuple[Finding, ...]:
    """Every finding, for results written below `runs`. Touches neither CUDA nor network."""
    environment = describe("cpu" if cuda_obstacle() else "cuda")
    return (
        Finding("Python", "ok", platform.python_version()),
        *_libraries(),
        *_device(environment),
        _load(),
        _memory(),
        _disk("results", runs),
        _disk("asset cache", assets.cache_dir()),
        *_assets(),
    )


def is_fit(findings: tuple[Finding, ...]) -> bool:
    """Whether nothing is a problem; warnings don't count."""
    return all(finding.status != "problem" for finding in findings)


def print_findings(findings: tuple[Finding, ...], console: Console) -> None:
    """The diagnosis as a table."""
    styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, no_wrap=not column, overflow="fold")
    for finding in findings:
        status = Text(finding.status, style=styles[finding.status])
        table.add_row(Text(finding.check), status, Text(finding.found), Text(finding.advice))
    console.print(table)


def requirements() -> dict[str, str]:
    """Oldest versions of the libraries needed: from pyproject.toml next to the code, else from the installation."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        stated = [line for line in importlib.metadata.requires("gram-bench") or () if "extra ==" not in line]
    return dict(line.split(">=") for line in stated)


def _libraries() -> Iterator[Finding]:
    """One line for the two that matter to numbers, one for each other that is missing or too old."""
    for name, wanted in requirements().items():
        oldest = tuple(map(int, wanted.split(".")))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", f"pip install '{name}>={wanted}'")
            continue
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[: len(oldest)])
        if numbers < oldest:
            yield Finding(name, "problem", version, f"pip install '{name}>={wanted}'")
        elif name in ("torch", "transformers"):
            yield Finding(name, "ok", version)


def _device(environment: Environment) -> Iterator[Finding]:
    obstacle = cuda_obstacle()
    if obstacle is not None:
        advice = "times will be the processor's; speed-ups on a GPU differ"
        yield Finding("device", "warning", f"{environment.cpu}, no GPU: {obstacle}", advice)
        if multiplies_bf16() is False:
            yield Finding(
                "bf16",
                "warning",
                "the processor has no instructions for it (AVX-512 BF16 or AMX), so that one step can take a minute",
                "measure in float32 here: --set 'sweep.precision=[\"float32\"]'",
            )
        return
    memory = environment.device_memory_bytes
    size = "" if memory is None else f", {memory / GIB:.0f} GiB"
    yield Finding("device", "ok", f"{environment.device}{size}")
    with device_handle(environment.device_uuid or "") as opened:
        if opened is None:
            advice = "peak memory per process, clocks and power will be missing from the results"
            yield Finding("NVML", "warning", f"does not know the GPU {environment.device_uuid}", advice)
            return
        cuda = library_versions().get("cuda")
        yield Finding("driver", "ok", f"{environment.driver}, torch is built for CUDA {cuda}")
        yield _clocks(environment)
        yield _tenants(*opened)


def _clocks(environment: Environment) -> Finding:
    limit, fastest = environment.power_limit_w, environment.clocks_mhz.get("sm_max")
    limits = [f"SM at most {fastest} MHz"] if fastest else []
    limits += [f"power limit {limit:.0f} W"] if limit else []
    return Finding("clocks", "ok", ", ".join(limits) or "not reported by this GPU")


def _tenants(nvml: Any, handle: Any) -> Finding:
    """Who else computes on the GPU, or holds its memory where processes are hidden, as in a container."""
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        busy = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError as error:
        return Finding(
            "other GPU work", "warning", f"not known ({error})", "make sure that nothing else runs on the GPU"
        )
    strangers = [str(process.pid) for process in processes if process.pid != os.getpid()]
    if strangers or busy > 5 or used > 2 * GIB:
        found = f"{len(strangers)} processes, {used / GIB:.1f} GiB in use, {busy} % busy"
        return Finding(
            "other GPU work", "warning", found, "end it, or expect disturbed times and earlier out-of-memory"
        )
    return Finding("other GPU work", "ok", f"none, {used / GIB:.1f} GiB in use")


def _load() -> Finding:
    cores = usable_cores()
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return Finding("processor", "ok", f"{cores} cores, load not known")
    found = f"{cores} cores, load {load:.1f} over the last minute"
    if load > CALM_LOAD * cores:
        return Finding("processor", "warning", found, "wait until other work has ended, it disturbs times")
    return Finding("processor", "ok", found)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    found = f"{free / GIB:.1f} GiB free"
    if free < NEEDED_MEMORY_BYTES:
        return Finding("memory", "problem", found, f"free at least {NEEDED_MEMORY_BYTES / GIB:.0f} GiB")
    if free < COMFORTABLE_MEMORY_BYTES:
        return Finding("memory", "warning", found, "larger cases may run out of memory")
    return Finding("memory", "ok", found)


def _disk(check: str, folder: Path) -> Finding:
    """Whether `folder`, or the nearest folder above it that exists, has room and may be written to."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding(check, "problem", f"{folder} cannot be written", f"choose another folder ({_setting(check)})")
    if free < NEEDED_DISK_BYTES:
        return Finding(check, "problem", found, f"free some space, or choose another folder ({_setting(check)})")
    if free < COMFORTABLE_DISK_BYTES:
        return Finding(check, "warning", found, "a long run may fill it")
    return Finding(check, "ok", found)


def _setting(check: str) -> str:
    return assets.CACHE_VARIABLE if check == "asset cache" else "--out"


def _assets() -> Iterator[Finding]:
    for asset in assets.ASSETS.values():
        check, size = f"asset {asset.name}", f"{asset.size_bytes / 1e6:.0f} MB"
        if assets.is_present(asset):
            yield Finding(check, "ok", f"{asset.title}, {size}")
        else:
            advice = "fetched when first needed; without a network, copy the asset cache of a machine that has it"
            yield Finding(check, "warning", f"{asset.title}, {size}, not fetched yet", advice)
