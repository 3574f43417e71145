"""What is made once of files, and kept in the asset cache: whole or not at all, under a hash of what it was made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import assets

_FACTS = "facts.json"


def kept(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], announce: Callable[[], None] = lambda: None
) -> tuple[Path, dict[str, Any]]:
    """The folder that `make` fills, and the facts that it returns; made, once announced, where the cache lacks it.

    key: everything that the folder's content depends on. Raises bench.assets.AssetError where the cache cannot be
    written. Two processes may make the same folder at once: the first to finish wins.
    """
    folder = assets.cache_dir() / kind / hashlib.sha256(key.encode()).hexdigest()
    facts = folder / _FACTS
    if not facts.is_file():
        announce()
        with assets.scratch_folder() as scratch:
            made = scratch / "made"
            made.mkdir()
            (made / _FACTS).write_text(json.dumps(make(made)), encoding="utf-8")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(folder)
            except OSError:
                if not facts.is_file():
                    raise
    return folder, json.loads(facts.read_text(encoding="utf-8"))


def content_hash(path: Path) -> str:
    """SHA-256 of a file, computed again only where its size or its time of change differ; raises OSError."""
    stat = path.stat()
    state = [stat.st_size, stat.st_mtime_ns]
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    note = assets.cache_dir() / "hashes" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written makes the next start slower, no more
        note.parent.mkdir(parents=True, exist_ok=True)
        writing = note.with_suffix(f".{os.getpid()}")
        writing.write_text(json.dumps({"state": state, "sha256": found}), encoding="utf-8")
        writing.replace(note)
    return found
