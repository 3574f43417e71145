"""Captured steps with their collectives on two GPUs: what is replayed is what would have been launched.

What every number of processors computes is in test_distributed; here graphs and NCCL are real.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gram_core import _gpu_ranks

ROOT = Path(__file__).parents[2]
PATIENCE_S = 500
TIMES_EAGER = 10
"""How many times as far from float32 as the eager engine in bf16 a captured one may be: it also stores in bf16 what
autocast stores in float32. Multi-step subtracts two passes' encodings, and was 6 times as far on two processors."""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_replayed_steps_are_launched_ones_bit_for_bit():
    """In deterministic mode; ranks step on unequally many users, and stay alike over 200 steps."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", _gpu_ranks.__name__]
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == 2 * len(_gpu_ranks.LINES)
    for report in reports:
        assert report["counts"]["replayed"] > report["counts"]["uncaptured"], report
        assert report["differs"] == report["losses_differ"] == 0, report
        assert report["apart"] == report["apart_after_200"] == 0, report
        line = report["line"]
        assert report["counts"]["tier"] == _gpu_ranks.TIERS[line["family"]], report
        standing = report["amp"] != "None" and not line["sharding"]
        assert report["counts"]["sums"].startswith("by copy engines" if standing else "by collectives"), report
        rounding = 1e-4 * report["moved"], 1e-5  # of float32; more where bf16's own, as the eager engine has it, is
        assert report["from_exact"] <= max(rounding[0], TIMES_EAGER * report["eager_from_exact"]), report
        assert report["losses_from_exact"] <= max(rounding[1], TIMES_EAGER * report["eager_losses_from_exact"]), report
