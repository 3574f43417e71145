"""Files that are replaced in one step, so that nobody reads half of one."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from bench.results.store import UnwritableResults


def replace(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all, with its folder where that is missing; raises UnwritableResults."""
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableResults(path, error) from error
