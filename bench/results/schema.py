"""What a run leaves behind: `run.json` (one `RunInfo`) and `results.jsonl` (one `Record` per measurement).

Raw facts only: everything derived (medians, ratios, speed-ups) is computed when read. Loads without torch.

Format history
1: first version. Columns that came later have a default, which is what every older result holds: of `inputs` nothing,
so that what such a result was measured on is unknown.
2: what `detail` may hold is fixed, and entries that do not apply are not written. Of version 1, entries that nothing
reads are dropped.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from bench.results.detail import MeasurementDetail, of_version_1
from bench.results.files import Strict
from bench.results.identity import LINE, SETTING, AxisValue, Line, columns_of, key, label, line_of

SCHEMA_VERSION: Final = 2

Outcome = Literal["ok", "oom", "timeout", "error", "skipped"]
Exactness = Literal["exact", "stale", "other-model"]
Schedule = Literal["solo", "interleaved", "alternated"]
RunKind = Literal["run", "train"]
LATER_AXES: Final[dict[str, AxisValue]] = {
    "cf_module": "nrms",
    "world_size": 1,
    "deduplicate": "local",
    "adapter": "none",
}
"""Axes that came later, and what every case before them had."""


def _with_later_axes(case: Any) -> Any:
    return {**LATER_AXES, **case} if isinstance(case, dict) else case


CaseAxes = Annotated[dict[str, AxisValue], BeforeValidator(_with_later_axes)]
"""Axis -> value."""


MEDIAN: Final = "median"
"""Marks a column whose blocks are joined by their median."""
Measured = Annotated[float | None, MEDIAN]
"""A column that is measured in each block: declaring it in `Record` is all that its frames and summary.csv need."""


class PeakMemory(Strict):
    """Peaks in bytes; None where the device does not tell.

    allocated, reserved: torch's CUDA allocator since process start; process: the worker process as the
    driver (CUDA) or the kernel's resident peak (CPU) counts it.
    """

    allocated: int | None = None
    reserved: int | None = None
    process: int | None = None


class Throughput(Strict):
    """Median rates per second of wall-clock."""

    users: float
    item_slots: float
    real_tokens: float


class Loss(Strict):
    """Training loss of the first and the last step of the worker."""

    first: float
    last: float


class Rank(Strict):
    """One of several processes that trained together; counts are means per step."""

    peak_memory_bytes: PeakMemory = PeakMemory()
    resident_peak_bytes: int | None = None
    """The most main memory that the process had resident."""
    unique_items: float | None = None
    """Of its own users."""
    alone_s: float | None = None
    """A step without communication, by this process's own device; None where the device keeps no time. In a step with
    it, the process waits at least for the slowest one's difference."""


class Spread(Strict):
    """Smallest, middle and largest of what was read."""

    min: float
    median: float
    max: float


POWER_CAP: Final = "sw_power_cap"
"""The reason for a clock below the highest that is no disturbance: the device draws all the power that it may."""


class Telemetry(Strict):
    """What the device reported of itself during this line's measured windows of one block; None where it does not say.

    Read next to the worker, from the driver and the system. Dropped rounds are not in it.
    """

    sm_clock_mhz: Spread | None = None
    power_w: float | None = None
    """Mean."""
    energy_j: float | None = None
    """Of all measured windows: their time by the power between changes of the device's own counter; None where that is
    not known to 3 %."""
    energy_per_1000_interactions_j: float | None = None
    """An interaction is one item slot stepped on. Advisory: nothing is judged by it."""
    temperature_c: float | None = None
    """Largest."""
    throttle_reasons: tuple[str, ...] | None = None
    """Every reason seen for a clock below the highest, by the driver's names; empty: none was seen."""
    foreign_processes: int | None = None
    """Most processes on the device that are none of this run's."""
    process_memory_bytes: int | None = None
    """Most device memory that the driver counted for the worker."""
    load: float | None = None
    """Tasks of others that wanted a processor core, per core of the machine; mean."""


Parts = dict[str, str]
"""Part -> SHA-256 of its content. Empty: unknown."""


class Inputs(Strict):
    """What a line was measured on, by content.

    log: the files that the workload reads, by the setting that names them; of one without files, its settings. encoder:
    weights, configuration and tokenizer, as far as it has them in files.
    """

    log: Parts = {}
    encoder: Parts = {}


class RunInputs(Strict):
    """The same of a whole run: by workload and by encoder, as the sweep names them."""

    logs: dict[str, Parts] = {}
    encoders: dict[str, Parts] = {}


class LineFields(Strict):
    """What says which line a result belongs to, and what it was measured on."""

    case: CaseAxes
    method: str
    engine: str
    accumulation_steps: int | str | None = None
    dropout: Literal["off", "shared"] = "off"
    padding: Literal["max_length", "longest"] = "max_length"
    optimizer: str = "adamw"
    inputs: Inputs = Inputs()

    @property
    def line(self) -> Line:
        """Identity of the line, whatever the block, replica or seed."""
        return line_of(columns_of(self.case) | {name: getattr(self, name) for name in (*SETTING, *LINE)})

    @property
    def label(self) -> str:
        """The method as a reader sees it."""
        return label(self.method, self.accumulation_steps)


class Record(LineFields):
    """One method on one case in one block.

    `case` maps axis to value: workload, encoder, layers, batch_size, history_length, text_length,
    item_repetition_ratio (as asked for; None where the workload's own log decides), precision, cf_module, world_size,
    deduplicate, adapter. Of several processes that trained together, counts and rates are those of all of them, joined.
    `accumulation_steps` belongs to the method and is None where the method has none.
    Counts are per step, means over the measured batches.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    block: Annotated[int, Field(ge=0)]
    replica: Annotated[int, Field(ge=0)] = 0
    """0: the line itself; 1: the canary, a second process of the same line, which should be exactly as fast."""
    exactness: Exactness
    outcome: Outcome
    reason: str | None = None
    """Why the outcome is not ok, in one sentence."""

    seed: int = 0

    tier: str | None = None
    """Which of the engine's ways to run an encoder ran: packed, padded, or as given; None: the engine has one only."""
    why_no_faster_tier: str | None = None
    """Why each faster one did not hold; None where the fastest ran."""

    samples_s: tuple[float, ...] = ()
    """Seconds per step: each is one timed window divided by its steps."""
    steps_per_sample: int | None = None
    device_samples_s: tuple[float, ...] = ()
    """The same windows by CUDA events; empty on CPU."""
    schedule: Schedule = "solo"
    """solo: a process by itself; interleaved: the block's processes took turns, a window each per round; alternated:
    they ran one after another, since they did not fit into memory together."""
    rounds: tuple[int, ...] = ()
    """The round of each sample where the schedule is interleaved; dropped rounds are absent."""
    dropped_rounds: tuple[str, ...] = ()
    """Why each dropped round was dropped: what the device did meanwhile."""
    block_records: Annotated[int, Field(ge=1)] | None = None
    """How many records the block consists of, written together: fewer of them are a half-written block."""
    overhead_s: float | None = None
    """What this worker cost besides its set-up, its warm-up's steps and its measured windows: starting and ending the
    process, making batches, counting, messages. Waiting for its turn is not in it."""
    telemetry: Telemetry | None = None
    warmup_steps: Annotated[int | None, MEDIAN] = None
    setup_s: Measured = None
    """What comes before steady steps: data, weights, and what steps took beyond a known size's pace (compilation, graph
    capture, first allocations), in the warm-up and in windows that were taken again for it."""

    users: Measured = None
    item_slots: Measured = None
    unique_items: Measured = None
    item_repetition_ratio: Measured = None
    """Realised: item slots over unique items of one batch, counted on as many batches of the log as detail's
    ratio_batches says; where it says nothing, on the measured ones."""
    steps_per_epoch: int | None = None
    """Batches in an epoch of the log as it was built; None where there is no such thing."""
    interval_unique_items: Measured = None
    interval_repetition_ratio: Measured = None
    """The same over the method's accumulation interval; None where that is one step."""
    real_tokens: Measured = None
    """Real tokens of all item slots of a batch, repeats included."""
    encoded_tokens: Measured = None
    """Real tokens that the method sends through the encoder per step."""
    padded_tokens: Measured = None
    """Tokens that the encoder computes per step for them, padding included."""

    useful_flops: Measured = None
    """Floating-point operations per step that are the method's work: real tokens, forward and backward, nothing that is
    computed again; None where they were not counted."""
    matrix_flops_per_s: Measured = None
    """What a large matrix product in the case's precision reached in this process, after its windows. Both are in a
    line's first block alone: others would say the same."""
    cf_step_s: Measured = None
    """Seconds of a step whose items are encoded already and after which the encoder does not learn: of methods with
    such steps, on logs with epochs."""
    host_wait_s: Measured = None
    """Seconds per step in which the device waited for the host; None where the engine doesn't tell. Between what is
    replayed from graphs: of a method whose step is so in part, what is launched in the rest counts as either."""
    fixed_memory_bytes: int | None = None
    """Weights, buffers and optimizer state: what the line holds between steps, whatever the batch."""
    peak_memory_bytes: PeakMemory = PeakMemory()
    throughput_per_s: Throughput | None = None
    loss: Loss | None = None
    ranks: tuple[Rank, ...] = ()
    """Every process's own facts where several trained together; then `peak_memory_bytes` holds the largest of each."""
    communication_s: Measured = None
    """Seconds per step that several processes spent on communication and on nothing else: the step's time less that of
    the same steps without any, taken by the same processes after the measured windows."""
    detail: MeasurementDetail = MeasurementDetail()

    @property
    def key(self) -> Hashable:
        """Identity in a run, equal to that of the work item that the record comes of."""
        return key(self.case, self, self.block, self.replica)

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        return of_version_1(values, MeasurementDetail, SCHEMA_VERSION)

    @model_validator(mode="after")
    def _a_round_for_each_sample(self) -> Record:
        if self.schedule == "interleaved" and len(self.rounds) != len(self.samples_s):
            raise ValueError(f"{len(self.samples_s)} samples of {len(self.rounds)} rounds")
        return self


MEASURED: Final = tuple(name for name, field in Record.model_fields.items() if MEDIAN in field.metadata)
"""Columns that every frame and summary.csv have by the same name, blocks joined by their median."""


class Environment(Strict):
    """Where a run was measured."""

    device: str
    """The device's own name: "NVIDIA H100 80GB HBM3", or the processor's model."""
    device_kind: Literal["cpu", "cuda"]
    device_uuid: str | None = None
    device_memory_bytes: int | None = None
    driver: str | None = None
    clocks_mhz: dict[str, int | None] = {}
    power_limit_w: float | None = None
    cpu: str
    cpu_cores: int
    host_memory_bytes: int
    os: str
    python: str
    libraries: dict[str, str] = {}
    git_sha: str | None = None
    git_dirty: bool | None = None


class RunInfo(Strict):
    """`run.json`."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    kind: RunKind = "run"
    """What it holds: measurements (results.jsonl) or trainings (training.jsonl)."""
    run_id: str
    started_at: str
    """ISO 8601, UTC."""
    command: tuple[str, ...]
    """The command line that reproduces the run."""
    preset: str
    config: dict[str, Any]
    environment: Environment
    inputs: RunInputs = RunInputs()
    """What it measures, as it was when the run was started; everything in it is measured on the same."""
    planned_records: int
    """Measurements, or trainings."""
    shard: str | None = None
    """Which part of the sweep this run measures: "2/4" is the second of four; None is all of it."""
    merged_from: tuple[str, ...] = ()
    """The runs whose records were merged into this one."""
