"""Files that survive a crash, replaced in one step or grown by whole lines of JSON, and errors that name the file.

A line is complete when its JSON is; its newline may be missing. What a crash left of a half-written last line is
dropped by reading, with a warning, and cut off by the next append. Any other damage is an error that names the line.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError

Row = TypeVar("Row", bound=BaseModel)


class Strict(BaseModel):
    """What all values of result files have in common: frozen, nothing in them that is not known, infinity in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


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


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, fresh: Path | None = None) -> Iterator[Path]:
    """Yields a path to write to, which takes the file's place at the end: whole, or not at all after an error.

    durable: whether its content is on the disk before; fresh: that path, where it must not be a new one each time.
    Makes the folder where it is missing. Raises UnwritableResults.
    """
    fresh = fresh or path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        if durable:
            with open(fresh, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(fresh, path)
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        raise UnwritableResults(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()


def replace(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Writes the file whole or not at all, as `replacing` does."""
    with replacing(path, durable=durable) as fresh:
        fresh.write_bytes(content)


@dataclass(frozen=True)
class JsonLines(Generic[Row]):
    """An append-only file of one model's values, a line each. noun: what one of them is, for warnings."""

    path: Path
    model: type[Row]
    noun: str

    def read(self) -> tuple[list[Row], list[str]]:
        """All complete rows, none where there is no file, and warnings; raises ResultsError, DamagedResults."""
        lines, half = self._split(read_bytes(self.path) or b"")
        warnings = []
        if half:
            warnings.append(
                f"{self.path}, line {len(lines) + 1}: dropped a half-written last {self.noun}; resume the run to "
                "take it again."
            )
        return [self._parsed(line, number) for number, line in enumerate(lines, start=1)], warnings

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows, all or none, and returns when they are on the disk.

        Raises UnwritableResults, with the file as it was before, when the disk is full or the file may not be written
        to; DamagedResults when the file's end is broken in a way that a crash does not explain.
        """
        added = b"".join(row.model_dump_json().encode() + b"\n" for row in rows)
        try:
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise UnwritableResults(self.path, error) from error
        try:
            end, separator = self._sound_end(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            try:
                os.ftruncate(descriptor, end)
                _write_all(descriptor, separator + added)
                os.fsync(descriptor)
                if is_new:
                    _sync_directory(self.path.parent)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise UnwritableResults(self.path, error) from error
        finally:
            os.close(descriptor)

    def half_written(self, from_the_last: Iterable[Row]) -> int:
        """How many rows at the end belong to a group that was not written whole; here each row is a group."""
        return 0

    def _split(self, content: bytes) -> tuple[list[bytes], bool]:
        """Complete lines, and whether half of one follows.

        No proper prefix of a JSON object is JSON, so a tail that parses was written whole: if it is no row, it is
        damage.
        """
        lines = content.split(b"\n")
        tail = lines.pop()
        if not tail:
            return lines, False
        try:
            json.loads(tail)
        except ValueError:
            return lines, True
        self._parsed(tail, len(lines) + 1)
        return [*lines, tail], False

    def _sound_end(self, content: bytes) -> tuple[int, bytes]:
        """Where the next line belongs, and what has to come before it (a newline, if only that was lost)."""
        lines, _ = self._split(content)
        excess = self.half_written(self._parsed(lines[place - 1], place) for place in range(len(lines), 0, -1))
        end = sum(len(line) + 1 for line in lines[: len(lines) - excess])
        return (len(content), b"\n") if end > len(content) else (end, b"")

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            return self.model.model_validate_json(line)
        except ValidationError as error:
            raise DamagedResults(self.path, number, first_fault(error, line, self.model)) from error


def read_bytes(path: Path) -> bytes | None:
    """The file's content, None where there is none; raises ResultsError where it can't be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ResultsError(f"{path}: cannot read ({error.strerror or error}).") from error


def parse_json(path: Path, content: bytes, model: type[Row]) -> Row:
    """A whole file as one value; raises DamagedResults, which names the line of a syntax error."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        line = 1
        try:
            json.loads(content)
        except json.JSONDecodeError as fault:
            line = fault.lineno
        except ValueError:
            pass
        raise DamagedResults(path, line, first_fault(error, content, model)) from error


def read_whole(path: Path, model: type[Row], what: str, advice: str, error: type[BenchError] = ResultsError) -> Row:
    """A file as one value; raises `error` where it can't be read or is not `what`, in words, with `advice`."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as reason:
        raise error(f"{path}: cannot read it ({reason.strerror or reason}); {advice}.") from reason
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise error(f"{path}: not {what} ({where}: {first['msg']}); {advice}.") from invalid


def first_fault(error: ValidationError, content: bytes, model: type[BaseModel]) -> str:
    """The first thing that is wrong, in words a reader can act on."""
    known = model.model_fields["schema_version"].default
    with contextlib.suppress(ValueError):
        version = json.loads(content).get("schema_version", known) if content.lstrip()[:1] == b"{" else known
        if version not in range(1, known + 1):
            return f"schema version {version!r}, while this program reads {known}"
    if not content.strip():
        return "empty line"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(directory: Path) -> None:
    """Makes a new file's name as durable as its content, where the system lets a directory be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
