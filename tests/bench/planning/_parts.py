"""What tests of plans share: a log of random users, shapes, a calibration with planted coefficients."""

from __future__ import annotations

import numpy as np
import torch

from bench.planning.coefficients import Calibration, Key, MemoryFactor
from bench.planning.counts import Estimate, GroupCounts, TextCounts
from bench.planning.shapes import CFShape, EncoderShape
from bench.workloads._base import Workload
from gram_core.batch import Batch, ItemTable

ENCODER = EncoderShape("bert", "padded", 4, 64, 1_000_000, 1e6, 1e3, 4, 4, kept_bytes=8e3, layer_bytes=1.5e3)
CF = CFShape("nrms", 20_000, 64, 4e4)
COSTS = {
    "product_flops": 2e-11,
    "attention_flops": 6e-11,
    "element_bytes": 2e-9,
    "optimizer_bytes": 1e-10,
    "cf_flops": 5e-11,
    "launches": 4e-5,
    "step": 1e-3,
}


def random_workload(users: int, slots: int, items: int, block: int, seed: int = 0, epochs: bool = True):
    """A log of `users` users who hold up to `slots` popular items each, and its rows, read `block` users a batch."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, items + 1)
    rows = np.stack([rng.choice(items, slots, replace=False, p=weights / weights.sum()) for _ in range(users)])
    mask = rng.random(rows.shape) < 0.8
    mask[:, 0] = True
    table = ItemTable.from_lists([[7] * int(length) for length in rng.integers(1, 12, items)])

    def batches(step: int) -> Batch:
        chosen = np.arange(step * block, (step + 1) * block) % users
        return Batch(
            torch.from_numpy(rows[chosen]),
            torch.from_numpy(mask[chosen]),
            torch.zeros(block, dtype=torch.int64),
            slots - 1,
        )

    return Workload(table, batches, users // block if epochs else None, {}), rows, mask


def texts(number: float, length: float = 10.0, longest: float = 20.0) -> TextCounts:
    return TextCounts(
        Estimate(number), Estimate(number * length), Estimate(number * length * 1.3 * length), Estimate(longest)
    )


def group(users: int, slots_per_user: float = 20.0, ratio: float = 2.0, longest: float = 20.0) -> GroupCounts:
    slots = users * slots_per_user
    return GroupCounts(users, texts(slots, longest=longest), texts(slots / ratio, longest=longest), 1)


def calibration(device: str = "a processor", cores: int | None = 2, **changes: object) -> Calibration:
    key = {
        "device": device, "device_kind": "cpu", "cores": cores, "torch": "2.0", "precision": "float32",
        "engine": "eager", "tier": "padded", "family": "bert", "width": 16,
    }  # fmt: skip
    values = {
        "device_coefficients": COSTS, "host_coefficients": {}, "log_sd": 0.05, "dof": 8, "least_flops": 1e3,
        "most_flops": 1e15, "memory": MemoryFactor(base_bytes=2e8, low=0.9, middle=1.0, high=1.1, samples=5),
        "device_memory_bytes": 8 << 30, "samples": (), "seconds": 60.0, "measured_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    own = {name: value for name, value in changes.items() if name in key}
    return Calibration(key=Key(**{**key, **own}), **{**values, **{k: v for k, v in changes.items() if k not in key}})
