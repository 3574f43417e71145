"""Plausible runs for the report's tests, built through the schema: a cost model stands in for a machine."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.results import store
from bench.results.schema import Environment, Loss, PeakMemory, Rank, Record, RunInfo, Throughput

GIB = 1024**3
LINES = (("e2e", None), ("e2e_unique", None), ("single_step", None), ("multi_step", 16))
MOVIELENS_RATIO = {16: 1.55, 32: 2.05, 64: 3.05, 128: 4.83}
SHAPE = "shape:tinybert-6-768"


def info(**changes: Any) -> RunInfo:
    """A run's header on an H100."""
    values: dict[str, Any] = {
        "run_id": "20261123-101500-full",
        "started_at": "2026-11-23T10:15:00Z",
        "command": ("gram-bench", "run", "--preset", "full", "--set", "sweep.batch_size=[16, 32, 64]"),
        "preset": "full",
        "config": {
            "run": {"seed": 0, "device": "cuda", "dropout": "off", "padding": "max_length", "timeout_s": 300.0},
            "sweep": {"batch_size": [16, 32, 64], "text_length": [32, 128], "method": ["e2e", "single_step"]},
            "model": {"candidates": 5, "pooling": "mean"},
        },
        "environment": Environment(
            device="NVIDIA H100 80GB HBM3",
            device_kind="cuda",
            device_uuid="GPU-6f2b1c9e-0000-4a6e-9d5b-3f1c2d4e5f60",
            device_memory_bytes=80 * GIB,
            driver="570.133.20",
            clocks_mhz={"sm": 1980, "memory": 2619},
            power_limit_w=700.0,
            cpu="Intel Xeon Platinum 8480C",
            cpu_cores=16,
            host_memory_bytes=128 * GIB,
            os="Linux 6.8",
            python="3.12.3",
            libraries={"torch": "2.11.0", "transformers": "5.17.0", "numpy": "2.4.6"},
            git_sha="76a9202c5a1ffc9c03c0d4ad1b2c3d4e5f607182",
            git_dirty=False,
        ),
        "planned_records": 0,
    }
    return RunInfo(**(values | changes))


def record(
    method: str = "single_step",
    accumulation_steps: int | str | None = None,
    *,
    workload: str = "synthetic",
    encoder: str = SHAPE,
    layers: int | None = None,
    batch_size: int = 32,
    history_length: int = 50,
    text_length: int = 32,
    ratio: float | None = 4.0,
    precision: str = "bf16",
    engine: str = "eager",
    block: int = 0,
    outcome: str = "ok",
    reason: str | None = None,
    device_kind: str = "cuda",
    **changes: Any,
) -> Record:
    """One record whose time and memory follow the encoded tokens."""
    noise = random.Random(f"{method}{batch_size}{text_length}{ratio}{block}{engine}{encoder}{precision}")
    case = {
        "workload": workload,
        "encoder": encoder,
        "layers": layers,
        "batch_size": batch_size,
        "history_length": history_length,
        "text_length": text_length,
        "item_repetition_ratio": ratio,
        "precision": precision,
    }
    values: dict[str, Any] = {
        "case": case,
        "method": method,
        "engine": engine,
        "accumulation_steps": accumulation_steps,
        "block": block,
        "exactness": "stale" if method == "multi_step" else "exact",
        "outcome": outcome,
        "reason": reason,
        "detail": {
            "weights": "random" if encoder.startswith("shape:") else "real",
            "encoder": f"{encoder}: 6 layers, d 768",
            "workload": {"items": 1682, "mean_text_tokens": 28.7663},
        },
    }
    if outcome == "ok":
        values |= _measured(method, accumulation_steps, case, noise, engine, device_kind)
    return Record(**(values | changes))


def _measured(
    method: str, steps: int | str | None, case: dict[str, Any], noise: random.Random, engine: str, device_kind: str
) -> dict[str, Any]:
    batch, text = case["batch_size"], case["text_length"]
    slots = batch * (case["history_length"] + 5)
    ratio = case["item_repetition_ratio"] or MOVIELENS_RATIO.get(batch, 2.0)
    unique = round(slots / ratio)
    interval = ratio * int(steps) ** 0.75 if isinstance(steps, int) else None
    encoded = {"e2e": slots, "e2e_unique": unique, "single_step": unique}.get(
        method, unique * 2 / (interval or 1) * ratio
    )
    speed = (350_000 if engine == "eager" else 900_000) if device_kind == "cuda" else 2_500
    seconds = 0.004 + encoded * text / speed + (0.001 if method == "single_step" else 0.0)
    samples = tuple(seconds * noise.uniform(0.98, 1.03) for _ in range(5))
    memory = int(1.2 * GIB + encoded * text * (420_000 if method != "multi_step" else 60_000))
    median = sorted(samples)[2]
    return {
        "samples_s": samples,
        "steps_per_sample": 4,
        "device_samples_s": samples if device_kind == "cuda" else (),
        "warmup_steps": 6,
        "setup_s": 4.2,
        "users": batch,
        "item_slots": slots,
        "unique_items": unique,
        "item_repetition_ratio": slots / unique,
        "interval_unique_items": slots * int(steps) / interval if isinstance(steps, int) and interval else None,
        "interval_repetition_ratio": interval,
        "real_tokens": slots * text * 0.6,
        "encoded_tokens": encoded * text * 0.6,
        "padded_tokens": encoded * text,
        "peak_memory_bytes": PeakMemory(allocated=memory, reserved=int(memory * 1.1), process=memory + GIB)
        if device_kind == "cuda"
        else PeakMemory(process=memory),
        "throughput_per_s": Throughput(
            users=batch / median, item_slots=slots / median, real_tokens=slots * text * 0.6 / median
        ),
        "loss": Loss(first=1.609, last=1.42),
    }


def real(engine: str = "eager", device_kind: str = "cuda", batches: Iterable[int] = (16, 32, 64)) -> list[Record]:
    """A real log with real weights."""
    return [
        record(
            method, steps, workload="movielens", encoder="minilm", batch_size=batch, ratio=None, precision="float32",
            engine=engine, device_kind=device_kind,
        )
        for batch in batches
        for method, steps in LINES
    ]  # fmt: skip


def shape(
    batches: Iterable[int] = (16, 32, 64), texts: Iterable[int] = (32, 128), ratios: Iterable[float] = (1, 2, 4, 8, 16),
    engine: str = "eager", encoder: str = SHAPE,
) -> list[Record]:  # fmt: skip
    """The synthetic sweep with random weights; the largest cases run out of memory, time, or are skipped."""
    return [
        record(method, steps, batch_size=batch, text_length=text, ratio=float(ratio), engine=engine, encoder=encoder,
               **_fate(method, batch, text, ratio))
        for batch in batches
        for text in texts
        for ratio in ratios
        for method, steps in LINES
    ]  # fmt: skip


def _fate(method: str, batch: int, text: int, ratio: float) -> dict[str, str]:
    tokens = batch * 55 * text / (1 if method == "e2e" else ratio)
    if method in ("multi_step",) or tokens < 200_000:
        return {}
    if tokens < 300_000:
        return {"outcome": "oom", "reason": "CUDA ran out of memory: 74.2 GiB in use, 8.0 GiB more asked for"}
    return {"outcome": "skipped", "reason": f"batch 32 x text {text} ran out of memory, and this case is larger"}


def full() -> list[Record]:
    """What the committed sweep looks like: real first, then shapes; one timeout, one error."""
    records = [*real(), *shape()]
    records[-1] = record("multi_step", 16, batch_size=64, text_length=128, ratio=16.0, outcome="timeout",
                         reason="no result within 300 s")  # fmt: skip
    records.append(record("single_step", batch_size=64, text_length=32, ratio=3.0, outcome="error",
                          reason="worker died of signal 9 (SIGKILL) <b>&"))  # fmt: skip
    return records


def two_engines() -> list[Record]:
    """Eager and fast on one real log and one shape."""
    few = {"batches": (16, 32), "texts": (32,), "ratios": (1, 4)}
    return [*real(), *real("fast"), *shape(**few), *shape(**few, engine="fast")]


def blocks(count: int = 5) -> list[Record]:
    """One case in several blocks."""
    return [record(method, steps, block=block) for block in range(count) for method, steps in LINES]


def paired(count: int = 6, bias: float = 0.0, odd_block: float = 0.0) -> list[Record]:
    """One case in blocks with the canary; bias slows its second process, odd_block the e2e of one block."""
    records = []
    for block in range(count):
        lines = [record(method, steps, block=block) for method, steps in LINES]
        luck = random.Random(f"canary{block}").uniform(-0.004, 0.004)
        (e2e,) = (each for each in lines if each.method == "e2e")
        slower = 1 + (odd_block if block == count // 2 else 0.0)
        lines[lines.index(e2e)] = _slowed(e2e, slower)
        records += [*lines, _slowed(e2e, slower * (1 + bias + luck), replica=1)]
    return records


def _slowed(line: Record, by: float, **changes: Any) -> Record:
    return line.model_copy(update={"samples_s": tuple(each * by for each in line.samples_s)} | changes)


def all_failed() -> list[Record]:
    """Nothing was measured."""
    return [record(method, steps, outcome="oom", reason="out of memory") for method, steps in LINES]


def without_memory() -> list[Record]:
    """A device that tells nothing about memory."""
    return [record(method, steps, peak_memory_bytes=PeakMemory()) for method, steps in LINES]


def many(count: int = 10_000) -> list[Record]:
    """A very long sweep: four measured lines, copied over many cases."""
    lines = [record(method, steps) for method, steps in LINES]
    cases = [
        {"batch_size": batch, "text_length": text, "item_repetition_ratio": float(ratio)}
        for batch in range(1, 51)
        for text in (16, 32, 64, 128, 256)
        for ratio in range(1, 11)
    ]
    return [line.model_copy(update={"case": line.case | case}) for case in cases for line in lines][:count]


PEERS = {"gradient_cache": "exact", "gradient_cache_unique": "exact", "speedyfeed": "stale", "frozen": "other-model"}


def peers(blocks: int = 1, ratios: Iterable[float] = (1, 4, 16)) -> list[Record]:
    """Ours and peers at several ratios; a fifth one's library is missing."""
    records = []
    for ratio, block in itertools.product(ratios, range(blocks)):
        case: dict[str, Any] = {"ratio": float(ratio), "block": block}
        records += [record(method, steps, **case) for method, steps in LINES]
        for method, exactness in PEERS.items():
            told = {"weights": "random", "handicaps": ["its steps are launched kernel by kernel"]}
            records.append(record(method, exactness=exactness, detail=told, **case))
        records.append(
            record("sentence_transformers", outcome="skipped", reason="not installed: pip install it", **case)
        )
    return records


def several_processes(batches: Iterable[int] = (16, 32), sizes: Iterable[int] = (1, 2, 4)) -> list[Record]:
    """Cases of one process and of several, which share three items of four where they share any."""
    records = []
    for batch, size, way in itertools.product(batches, sizes, ("local", "global", "auto")):
        for method, steps in LINES if size > 1 or way == "local" else ():
            alone = record(method, steps, batch_size=batch)
            shared = 0.6 if way != "local" and method in ("e2e_unique", "single_step") else 1.0
            samples = tuple(each * (1 + 0.05 * (size > 1)) * shared for each in alone.samples_s)
            users = batch * size / sorted(samples)[2]
            rates = alone.throughput_per_s
            together: dict[str, Any] = {
                "case": alone.case | {"world_size": size, "deduplicate": way},
                "samples_s": samples,
                "throughput_per_s": rates and rates.model_copy(update={"users": users}),
            }
            if size > 1:
                peaks = [PeakMemory(allocated=GIB * (2 + rank)) for rank in range(size)]
                own = [
                    Rank(
                        peak_memory_bytes=peak, unique_items=alone.unique_items, alone_s=samples[0] * (0.9 - rank / 50)
                    )
                    for rank, peak in enumerate(peaks)
                ]
                joined = alone.unique_items * (1 + 0.25 * (size - 1))
                together |= {"ranks": tuple(own), "communication_s": samples[0] / 25, "unique_items": joined}
            records.append(alone.model_copy(update=together))
    return records


def _blocks_with(**changes: Any) -> list[Record]:
    """One case in three blocks, every record with these columns."""
    return [each.model_copy(update=changes) for each in blocks(3)]


SCENARIOS = {
    "full": full,
    "real_on_cpu": lambda: real(device_kind="cpu", batches=(16, 32)),
    "two_engines": two_engines,
    "two_encoders": lambda: [*shape((16,), (32,)), *shape((16,), (32,), encoder="shape:bert-base")],
    "blocks": blocks,
    "paired": paired,
    "untrusted": lambda: paired(bias=0.05),
    "one_canary_block": lambda: paired(count=1),
    "single_case": lambda: [record(method, steps) for method, steps in LINES],
    "only_e2e": lambda: [record("e2e")],
    "no_reference": lambda: [record("single_step"), record("multi_step", 16)],
    "all_failed": all_failed,
    "without_memory": without_memory,
    "dropout_shared": lambda: [record(method, steps, dropout="shared") for method, steps in LINES],
    "fraction_of_epoch": lambda: [record("e2e"), record("multi_step", "0.5E")],
    "other_model": lambda: [record("e2e"), record("frozen", exactness="other-model")],
    "peers": peers,
    "peers_in_blocks": lambda: peers(blocks=3),
    "several_processes": several_processes,
    "several_processes_alone": lambda: [each for each in several_processes() if each.method == "single_step"],
    "no_counts": lambda: _blocks_with(item_slots=None, unique_items=None, item_repetition_ratio=None),
    "no_rates": lambda: _blocks_with(throughput_per_s=None, loss=None),
    "no_tokens": lambda: _blocks_with(real_tokens=0, padded_tokens=0, encoded_tokens=0),
    "no_bytes": lambda: _blocks_with(peak_memory_bytes=PeakMemory(allocated=0), fixed_memory_bytes=0),
    "all_alike": lambda: _blocks_with(samples_s=(0.1, 0.1, 0.1)),
    "half_a_block": lambda: paired(1)[:2],
    "two_blocks": lambda: paired(2),
    "far_names": lambda: [record(*line, encoder="path:/data/\u6a21\u578b \u00e9") for line in LINES],
    "nothing_yet": list,
}


def write(base: Path, records: list[Record], header: RunInfo | None = None) -> Path:
    """A run directory holding these records; written at once, since 10,000 fsyncs take a while."""
    run_dir = store.create_run_dir(base, "full")
    header = header or info()
    store.write_info(run_dir, header.model_copy(update={"planned_records": len(records)}))
    with open(run_dir / store.RECORDS_FILE, "w", encoding="utf-8") as file:
        file.writelines(each.model_dump_json() + "\n" for each in records)
    return run_dir


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    print(json.dumps(str(write(target, SCENARIOS[sys.argv[1]]()))))
