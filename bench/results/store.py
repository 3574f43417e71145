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

import contextlib
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.results import files
from bench.results.files import DamagedResults, JsonLines, ResultsError, UnwritableResults
from bench.results.schema import Record, RunInfo

__all__ = ["DamagedResults", "ResultsError", "UnwritableResults"]  # what reading and writing here raises

INFO_FILE = "run.json"
RECORDS_FILE = "results.jsonl"


@dataclass(frozen=True)
class LoadedRun:
    """A run as read: what was measured, where, and what the reader should know about the file's state."""

    run_dir: Path
    info: RunInfo
    records: tuple[Record, ...]
    warnings: tuple[str, ...]


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
    with contextlib.suppress(UnwritableResults), files.replacing(base / "latest") as fresh:
        fresh.symlink_to(run_id, target_is_directory=True)


def write_info(run_dir: Path, info: RunInfo) -> None:
    """Writes `run.json` whole or not at all; raises UnwritableResults."""
    files.replace(run_dir / INFO_FILE, (info.model_dump_json(indent=2) + "\n").encode(), durable=True)


def read_info(run_dir: Path) -> RunInfo:
    """Reads `run.json`; raises ResultsError where there is none, DamagedResults where it is not one."""
    path = run_dir / INFO_FILE
    content = files.read_bytes(path)
    if content is None:
        raise ResultsError(
            f"{run_dir}: not a run directory, it has no {INFO_FILE}. Give the directory that a run printed."
        )
    return files.parse_json(path, content, RunInfo)


def append(run_dir: Path, *records: Record) -> None:
    """Adds records, all or none, and returns when they are on the disk; raises as `JsonLines.append` does."""
    _records(run_dir).append(records)


def append_block(run_dir: Path, records: Sequence[Record]) -> tuple[Record, ...]:
    """Adds a block's records, all or none, and returns them as they are on the disk; raises as `append` does."""
    block = tuple(record.model_copy(update={"block_records": len(records)}) for record in records)
    append(run_dir, *block)
    return block


class _RecordLines(JsonLines[Record]):
    def half_written(self, from_the_last: Iterable[Record]) -> int:
        """How many records at the end belong to a block of which fewer were written than it has; reads no further."""
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


def _records(run_dir: Path) -> _RecordLines:
    return _RecordLines(run_dir / RECORDS_FILE, Record, "record")


def load(run_dir: Path) -> LoadedRun:
    """Reads a run directory; a run that has not measured anything yet has no records.

    Raises ResultsError (not a run directory, unreadable) and DamagedResults (file and line named).
    """
    info, lines = read_info(run_dir), _records(run_dir)
    parsed, warnings = lines.read()
    excess = lines.half_written(reversed(parsed))
    if excess:
        warnings.append(
            f"{lines.path}, line {len(parsed) - excess + 1}: dropped the last block, {excess} of "
            f"{parsed[-1].block_records} records; resume the run to measure it again."
        )
        parsed = parsed[:-excess]
    records: dict[Hashable, Record] = {}
    line_of: dict[Hashable, int] = {}
    for number, record in enumerate(parsed, start=1):
        key = record.key
        if key in records:
            warnings.append(
                f"{lines.path}, line {number}: replaces line {line_of[key]}, the same case, method and block."
            )
        records[key], line_of[key] = record, number
    return LoadedRun(run_dir, info, tuple(records.values()), tuple(warnings))
