"""SHA-256 of files and settings. A file's is computed once, and remembered in the asset cache with the file's state."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import UsageError
from bench.inputs import assets
from bench.results.files import UnwritableResults, replace

SETTLED_NS = 2_000_000_000
"""A file that was touched less long ago may change again within one tick of its file system's clock, unseen: its hash
is not remembered."""
TRIES = 3


def of_file(path: Path) -> str:
    """SHA-256 of a file, computed again only where its size, inode or a time of change differ.

    Raises UsageError where it can't be read, or is being written to meanwhile.
    """
    try:
        return _remembered(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot read it ({error.strerror or error}).") from error


def of_files(paths: Sequence[Path]) -> str:
    """Of several files together, with their names below the folder that holds them all; of one, its own."""
    if len(paths) == 1:
        return of_file(paths[0])
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return of_parts({path.relative_to(above).as_posix(): of_file(path) for path in paths})


def of_text(text: str) -> str:
    """Of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def of_parts(parts: Mapping[str, str]) -> str:
    """Of hashes by name, whatever their order."""
    return of_text(json.dumps(dict(parts), sort_keys=True))


def _remembered(path: Path) -> str:
    note = assets.cache_dir() / "hashes" / f"{of_text(str(path.resolve()))}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == _state(path):
            return str(known["sha256"])
    for _ in range(TRIES):
        state, now = _state(path), time.time_ns()
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if state == _state(path):
            break
    else:
        raise UsageError(f"{path}: it changes while it is read; wait until it is written, or give a copy.")
    if now - state[2] > SETTLED_NS:
        _remember(note, state, found)
    return found


def _state(path: Path) -> list[int]:
    """What a write cannot leave as it was: programs may set mtime back, while ctime is the system's own."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _remember(note: Path, state: list[int], sha256: str) -> None:
    with contextlib.suppress(UnwritableResults):  # a cache that cannot be written makes the next start slower, no more
        replace(note, json.dumps({"state": state, "sha256": sha256}).encode())
