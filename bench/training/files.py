"""Where checkpoints lie; loads without torch, so that the manager can clear them away."""

from __future__ import annotations

from pathlib import Path


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written before it takes its place."""
    return path.with_name(f".{path.name}.partial")


def remove_checkpoint(path: Path) -> None:
    """Removes the checkpoint of a training that has ended, and what a crash left of a half-written one."""
    for each in (path, unfinished(path)):
        each.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
