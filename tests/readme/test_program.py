"""The README's example is a program that trains, and its links lead somewhere."""

from __future__ import annotations

import re
from typing import Any

import torch

from tests.readme._readme import README, ROOT


def test_the_training_loop_runs_and_moves_every_part() -> None:
    """Fifteen lines that a reader copies must work as they stand."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 15
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    setup, loop = code.split("for _ in range(3):")
    exec(setup, found)
    before = [p.detach().clone() for part in ("encoder", "cf_module") for p in found[part].parameters()]
    exec("for _ in range(3):" + loop, found)
    after = [p for part in ("encoder", "cf_module") for p in found[part].parameters()]
    assert torch.isfinite(found["loss"])
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert moved > len(after) // 2


def test_every_file_it_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
