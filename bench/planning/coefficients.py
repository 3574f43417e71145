"""Calibrations as files: what `gram-bench calibrate` measured of a device, and which of them a plan may use.

Kept in the cache, one file per device, torch, precision, engine, tier and encoder family; those of devices that were
measured for everybody are committed in `bench/references/costs/`.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.errors import UsageError
from bench.inputs import assets
from bench.planning.cost import Costs
from bench.results import files, store
from bench.results.files import Strict

FOLDER = Path(__file__).parents[1] / "references" / "costs"
_KIND = "costs"


class Key(Strict):
    """What coefficients belong to. cores: of a CPU; family: the encoder's model type; width: of its states."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    cores: int | None
    torch: str
    precision: str
    engine: str
    tier: str
    family: str
    width: int

    @property
    def machine(self) -> str:
        """The device in words."""
        return f"{self.device}, {self.cores} cores" if self.device_kind == "cpu" else self.device


class Sample(Strict):
    """A step that was measured for the fit, and what the fit makes of it."""

    case: str
    measured_s: float
    fitted_s: float


class MemoryFactor(Strict):
    """Measured peaks over those from shapes. base_bytes: what the process holds before a model is built, on a CPU; low,
    middle, high: smallest, median and largest ratio; samples: of so many steps."""

    base_bytes: float = 0.0
    low: float = 1.0
    middle: float = 1.0
    high: float = 1.0
    samples: int = 0

    def peak(self, shape_bytes: float) -> tuple[float, float, float]:
        """Low, middle and high of a peak in bytes."""
        low, middle, high = (self.base_bytes + each * shape_bytes for each in (self.low, self.middle, self.high))
        return low, middle, high


class Calibration(Strict):
    """Coefficients in seconds per unit of each term (see `bench.planning.work.Work`), and how well they fit."""

    schema_version: Literal[1] = 1
    key: Key
    device_coefficients: dict[str, Annotated[float, Field(ge=0)]]
    host_coefficients: dict[str, Annotated[float, Field(ge=0)]]
    log_sd: Annotated[float, Field(ge=0)]
    dof: Annotated[int, Field(ge=1)]
    least_flops: Annotated[float, Field(ge=0)]
    most_flops: Annotated[float, Field(gt=0)]
    memory: MemoryFactor
    device_memory_bytes: int | None
    """Of the device in all, of the host for a CPU."""
    samples: tuple[Sample, ...]
    seconds: float
    """What the calibration took."""
    measured_at: str

    @property
    def costs(self) -> Costs:
        """The coefficients as a cost model."""
        return Costs(
            self.key.device_kind,
            self.device_coefficients,
            self.host_coefficients,
            self.log_sd,
            self.dof,
            self.least_flops,
            self.most_flops,
        )


@dataclass(frozen=True)
class Chosen:
    """The calibration that a plan uses. own: of this device; notes: how it differs from what was asked for, empty where
    it doesn't."""

    calibration: Calibration
    own: bool
    notes: tuple[str, ...]
    origin: str


_PENALTIES = {"device": 1000, "cores": 500, "precision": 100, "family": 20, "width": 10, "torch": 1}


def choose(wanted: Key, found: Iterable[tuple[str, Calibration]]) -> Chosen | None:
    """The nearest calibration of the same kind of device, engine and tier; None where there is none.

    found: calibrations and where each is kept, earlier ones first at equal distance.
    """
    fitting = [
        (origin, each)
        for origin, each in found
        if all(getattr(each.key, name) == getattr(wanted, name) for name in ("device_kind", "engine", "tier"))
    ]
    if not fitting:
        return None
    origin, nearest = min(fitting, key=lambda entry: _distance(wanted, entry[1].key))
    notes = []
    own = (nearest.key.device, nearest.key.cores) == (wanted.device, wanted.cores)
    if not own:
        notes.append(f"coefficients are another machine's ({nearest.key.machine}; this is {wanted.machine})")
    for name, what in (
        ("precision", "precision"),
        ("family", "encoder family"),
        ("width", "width"),
        ("torch", "torch"),
    ):
        theirs, mine = getattr(nearest.key, name), getattr(wanted, name)
        if theirs != mine:
            notes.append(f"coefficients are of {what} {theirs}, not {mine}")
    return Chosen(nearest, own, tuple(notes), origin)


def _distance(wanted: Key, key: Key) -> int:
    return sum(penalty for name, penalty in _PENALTIES.items() if getattr(key, name) != getattr(wanted, name))


def cached() -> list[tuple[str, Calibration]]:
    """Calibrations of this user's cache; raises UsageError for a damaged one."""
    return _read_all(assets.cache_dir() / _KIND)


def committed() -> list[tuple[str, Calibration]]:
    """Those that come with the program."""
    return _read_all(FOLDER)


def keep(calibration: Calibration, out: Path | None = None) -> Path:
    """Writes it into the cache, or to `out`; an older one of the same key is replaced. Raises UsageError."""
    key = calibration.key
    slug = re.sub(r"[^a-z0-9]+", "-", f"{key.device}-{key.engine}-{key.tier}-{key.precision}".lower()).strip("-")
    digest = hashlib.sha256(key.model_dump_json().encode()).hexdigest()[:8]
    path = (out or assets.cache_dir() / _KIND) / f"{slug[:80]}-{digest}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, (calibration.model_dump_json(indent=1) + "\n").encode())
    except (store.UnwritableResults, OSError) as error:
        raise UsageError(
            f"{path}: cannot write the calibration; choose another --out, or set {assets.CACHE_VARIABLE}"
        ) from error
    return path


def _read_all(folder: Path) -> list[tuple[str, Calibration]]:
    mend = "remove it, and run gram-bench calibrate again"
    return [
        (str(path), files.read_whole(path, Calibration, "a calibration", mend, UsageError))
        for path in sorted(folder.glob("*.json"))
    ]
