"""The run directory on disk: `run.json` and the append-only `results.jsonl`, safe against crashes and full disks.

Rules
- One record is one line. A record is complete when its JSON is; its newline may be missing.
- `append` returns only when the line is on the disk. If it cannot be written, nothing of it stays behind.
- A half-written last line (a crash in the middle of a write) is dropped with a warning by `load`, and cut off by the
  next `append`. Any other damage is an error that names the file and the line: nobody should publish from half a run.
- A block's records are written together. Fewer of them than they say they are (`block_records`) at the file's end are
  a half-written block, which goes the way of a half-written line.
- Of several records with one key the last counts, with a warning: measuring again is how a failed case is repaired,
  and the file stays append-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from bench.errors import BenchError
from bench.results.schema import SCHEMA_VERSION, Record, RunInfo

INFO_FILE = "run.json"
RECORDS_FILE = "results.jsonl"


class ResultsError(BenchError):
    """A run directory cannot be read or written; the message says which file and what to do."""


class DamagedResults(ResultsError):
    """A file of a run directory holds something that no complete write leaves there."""

    def __init__(self, file: Path, line: int, why: str) -> None:
        super().__init__(f"{file}, line {line}: {why}. Repair or remove that line, or measure again.")
        self.file, self.line, self.why = file, line, why


class UnwritableResults(ResultsError):
    """The disk is full, or the place may not be written to."""

    def __init__(self, file: Path, why: OSError) -> None:
        super().__init__(
            f"{file}: cannot write ({why.strerror or why}). Everything recorded before is still there; "
            "free some space or choose another --out."
        )
        self.file, self.why = file, why


@dataclass(frozen=True)
class LoadedRun:
    """A run as read: what was measured, where, and what the reader should know about the file's state."""

    run_dir: Path
    info: RunInfo
    records: tuple[Record, ...]
    warnings: tuple[str, ...]


def record_key(record: Record) -> Hashable:
    """A record's identity inside its run: case, method, engine, accumulation steps, block, replica."""
    case = tuple(sorted(record.case.items()))
    return case, record.method, record.engine, record.accumulation_steps, record.block, record.replica


def create_run_dir(base: Path = Path("runs"), name: str = "run", now: datetime | None = None) -> Path:
    """Makes a new, empty `base/RUN_ID` and points `base/latest` to it; raises UnwritableResults.

    RUN_ID is the time in UTC and `name`, usually the preset: `20261123-101500-quick`. Where two runs start in one
    second, the later one gets `-2`.
    """
    now = datetime.now(UTC) if now is None else now.astimezone(UTC)
    safe_name = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "run"
    stem = f"{now:%Y%m%d-%H%M%S}-{safe_name}"
    run_id, copies = stem, 1
    while True:
        try:
            base.mkdir(parents=True, exist_ok=True)
            (base / run_id).mkdir()
            break
        except FileExistsError as error:
            if not base.is_dir():
                raise UnwritableResults(base, error) from error
            copies += 1
            run_id = f"{stem}-{copies}"
        except OSError as error:
            raise UnwritableResults(base / run_id, error) from error
    _point_latest(base, run_id)
    return base / run_id


def _point_latest(base: Path, run_id: str) -> None:
    """Replaces `base/latest` in one step, so that a reader never finds it missing.

    It is a convenience: where symbolic links are not allowed, or `latest` is someone's directory, the run goes on.
    """
    fresh = base / f".latest-{uuid.uuid4().hex}"
    try:
        fresh.symlink_to(run_id, target_is_directory=True)
        os.replace(fresh, base / "latest")
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()


def write_info(run_dir: Path, info: RunInfo) -> None:
    """Writes `run.json` whole or not at all; raises UnwritableResults."""
    target = run_dir / INFO_FILE
    fresh = run_dir / f".{INFO_FILE}-{uuid.uuid4().hex}"
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(info.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, target)
        sync_directory(run_dir)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableResults(target, error) from error


def read_info(run_dir: Path) -> RunInfo:
    """Reads `run.json`; raises ResultsError where there is none, DamagedResults where it is not one."""
    path = run_dir / INFO_FILE
    content = _read(path)
    if content is None:
        raise ResultsError(
            f"{run_dir}: not a run directory, it has no {INFO_FILE}. Give the directory that a run printed."
        )
    try:
        return RunInfo.model_validate_json(content)
    except ValidationError as error:
        raise DamagedResults(path, _line_of(error, content), first_fault(error, content)) from error


def append(run_dir: Path, record: Record) -> None:
    """Adds one record and returns when it is on the disk.

    Raises UnwritableResults, with the file as it was before, when the disk is full or the file may not be written to;
    DamagedResults when the file's end is broken in a way that a crash does not explain.
    """
    _append(run_dir, [record])


def append_block(run_dir: Path, records: Sequence[Record]) -> tuple[Record, ...]:
    """Adds a block's records, all or none, and returns them as they are on the disk; raises as `append` does."""
    block = tuple(record.model_copy(update={"block_records": len(records)}) for record in records)
    _append(run_dir, block)
    return block


def append_all(run_dir: Path, records: Sequence[Record]) -> None:
    """Adds records of other runs as they are, all or none; raises as `append` does."""
    _append(run_dir, records)


def _append(run_dir: Path, records: Sequence[Record]) -> None:
    lines = b"".join(record.model_dump_json().encode() + b"\n" for record in records)
    append_lines(run_dir / RECORDS_FILE, lines, _sound_end)


def append_lines(path: Path, lines: bytes, sound_end: Callable[[int, Path], tuple[int, bytes]]) -> None:
    """Adds whole lines, and returns when they are on the disk; raises as `append` does.

    sound_end: of a file descriptor and its path, where sound content ends and what has to stand before the next line.
    """
    try:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise UnwritableResults(path, error) from error
    try:
        end, separator = sound_end(descriptor, path)
        try:
            os.ftruncate(descriptor, end)
            _write_all(descriptor, separator + lines)
            os.fsync(descriptor)
            if is_new:
                sync_directory(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise UnwritableResults(path, error) from error
    finally:
        os.close(descriptor)


def _sound_end(descriptor: int, path: Path) -> tuple[int, bytes]:
    """Where the next line belongs, and what has to stand before it (a newline, if only that was lost)."""
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    lines = content.split(b"\n")
    tail = lines.pop()
    if tail and _is_whole_tail(tail, path, len(lines) + 1):
        lines.append(tail)
    numbered = enumerate(reversed(lines))
    excess = _half_block(_parse(line, path, len(lines) - place) for place, line in numbered)
    if excess:
        lines = lines[:-excess]
    elif lines and lines[-1] is tail:
        return size, b"\n"
    return sum(len(line) + 1 for line in lines), b""


def _half_block(from_the_last: Iterable[Record]) -> int:
    """How many records at a file's end belong to a block of which fewer were written than it has; reads no further."""
    block: tuple[object, ...] | None = None
    whole, found = 1, 0
    for record in from_the_last:
        if record.block_records is None:
            break
        block = block or (record.case, record.block, record.block_records)
        if block != (record.case, record.block, record.block_records):
            break
        whole, found = record.block_records, found + 1
    return found % whole


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_directory(directory: Path) -> None:
    """Makes a new file's name as durable as its content, where the system lets a directory be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(run_dir: Path) -> LoadedRun:
    """Reads a run directory; a run that has not measured anything yet has no records.

    Raises ResultsError (not a run directory, unreadable) and DamagedResults (file and line named).
    """
    info = read_info(run_dir)
    path = run_dir / RECORDS_FILE
    lines = (_read(path) or b"").split(b"\n")
    tail = lines.pop()
    warnings = []
    if tail:
        number = len(lines) + 1
        if _is_whole_tail(tail, path, number):
            lines.append(tail)
        else:
            warnings.append(
                f"{path}, line {number}: dropped a half-written last record; resume the run to measure it again."
            )
    records: dict[Hashable, Record] = {}
    line_of: dict[Hashable, int] = {}
    parsed = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    excess = _half_block(reversed(parsed))
    if excess:
        warnings.append(
            f"{path}, line {len(parsed) - excess + 1}: dropped the last block, {excess} of "
            f"{parsed[-1].block_records} records; resume the run to measure it again."
        )
        parsed = parsed[:-excess]
    for number, record in enumerate(parsed, start=1):
        key = record_key(record)
        if key in records:
            warnings.append(f"{path}, line {number}: replaces line {line_of[key]}, the same case, method and block.")
        records[key], line_of[key] = record, number
    return LoadedRun(run_dir, info, tuple(records.values()), tuple(warnings))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ResultsError(f"{path}: cannot read ({error.strerror or error}).") from error


def _parse(line: bytes, path: Path, number: int) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        raise DamagedResults(path, number, first_fault(error, line)) from error


def _is_whole_tail(tail: bytes, path: Path, number: int) -> bool:
    """Whether a last line without newline is a complete record; False for the front part of one.

    No proper prefix of a JSON object is JSON, so what parses was written whole: if it is no record, it is damage.
    """
    try:
        json.loads(tail)
    except ValueError:
        return False
    _parse(tail, path, number)
    return True


def first_fault(error: ValidationError, content: bytes) -> str:
    """The first thing that is wrong, in words a reader can act on."""
    with contextlib.suppress(ValueError):
        version = (
            json.loads(content).get("schema_version", SCHEMA_VERSION)
            if content.lstrip()[:1] == b"{"
            else SCHEMA_VERSION
        )
        if version != SCHEMA_VERSION:
            return f"schema version {version!r}, while this program reads {SCHEMA_VERSION}"
    if not content.strip():
        return "empty line"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _line_of(error: ValidationError, content: bytes) -> int:
    """The line of a JSON syntax error; 1 for a document that parses but says something else."""
    try:
        json.loads(content)
    except json.JSONDecodeError as fault:
        return fault.lineno
    except ValueError:
        return 1
    return 1
