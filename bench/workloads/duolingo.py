"""`duolingo`: the files of Duolingo's 2018 shared task (SLAM): was an exercise answered without a mistake?

An exercise is a header line (`# user:... days:... format:...`) and a line for each token of the right answer, with a
label: 1 where the student got the token wrong. An item is the text of these tokens; a response is right if and only if
no token is wrong. Where a file has no labels (dev, test), they are next to it in FILE.key.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.configuration.values import DataPath
from bench.workloads._base import Axes, MalformedData, Task, Workload, WorkloadRequest, lines
from bench.workloads._io.dropped import Dropped
from bench.workloads._log import interaction_log, real_log
from bench.workloads._log.external_sort import UserSort
from bench.workloads._sampling.epoch_sampler import ScoredSettings

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = False
HOLDS_OUT = True
REAL_TEXTS = True

_CHUNK = 1 << 18
"""Exercises handed on at once."""


class Settings(ScoredSettings):
    """`[workload.duolingo]`."""

    files: tuple[DataPath, ...] = ()
    """Paths of .train, .dev and .test files of one language, in the order of time."""


@dataclass
class _Exercise:
    """line: of its header. instance: session and number in it, without the tokens' own number."""

    line: int
    user: str
    days: float
    instance: str = ""
    words: list[str] = field(default_factory=list)
    mistakes: int = 0


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError where a file is missing, for a CF module that ranks, or for an asked-for ratio."""
    real_log.check_axes("duolingo", axes)
    real_log.check_task("duolingo", axes.task, "response")
    for path in settings.files or (None,):
        real_log.check_files("duolingo", files=path)


def prepare(settings: Settings, *, argument: str | None, task: Task, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Reads the files into the cache; raises MalformedData naming file and line. Returns what was left out."""
    return _log_of(settings).kept(lambda: say("reading duolingo's files into the cache"))[1]


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does, where the encoder has no tokenizer or the log is too short for a batch, and
    MalformedData naming file and line."""
    check(settings, request)
    return real_log.stored_log(_log_of(settings), settings, request)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """The files, and those of their labels where these are apart."""
    found: dict[str, Path | str] = {}
    for number, path in enumerate(_files(settings)):
        found[f"files[{number}]"] = path
        if _key_file(path).is_file():
            found[f"files[{number}].key"] = _key_file(path)
    return found


def _log_of(settings: Settings) -> real_log.StoredLog:
    return real_log.StoredLog("duolingo", contents(settings, None), (), lambda folder: _write(settings, folder))


def _files(settings: Settings) -> list[Path]:
    return [Path(path) for path in settings.files]


def _key_file(path: Path) -> Path:
    return path.with_name(path.name + ".key")


def _write(settings: Settings, folder: Path) -> dict[str, Any]:
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    seen: set[str] = set()
    dropped = Dropped("exercises")
    rows: list[tuple[int, int, float, bool]] = []
    sort = UserSort(folder)

    def hand_on() -> None:
        if rows:
            columns = zip(*rows, strict=True)
            sort.add(*(np.asarray(column) for column in columns))
            rows.clear()

    for path in _files(settings):
        for exercise in _exercises(path):
            dropped.read += 1
            if not exercise.words:
                dropped.add("exercise without tokens", 1, f"{path}, line {exercise.line}")
            elif exercise.instance in seen:
                dropped.add("duplicate exercise", 1, f"{path}, line {exercise.line}")
            else:
                seen.add(exercise.instance)
                user = users.setdefault(exercise.user, len(users))
                item = items.setdefault(" ".join(exercise.words), len(items))
                rows.append((user, item, exercise.days, exercise.mistakes == 0))
            if len(rows) == _CHUNK:
                hand_on()
    hand_on()
    with interaction_log.LogWriter(folder) as writer:
        done = sort.write(writer, "keep")
        writer.finish(len(items))
    names = list(users)
    dropped.add("user with one interaction", done.alone, lambda: f"user {names[done.examples['alone'][0]]}")
    real_log.some_left(dropped, ", ".join(settings.files))
    real_log.keep_texts(folder, list(items))
    return dropped.facts()


def _exercises(path: Path) -> Iterator[_Exercise]:
    """In the file's order; raises MalformedData naming file and line."""
    labels = _labels(_key_file(path))
    current: _Exercise | None = None
    for number, line in lines(path):
        if line.startswith("# prompt:") or not line.strip():
            continue
        if line.startswith("#"):
            if current is not None:
                yield current
            current = _header(path, number, line)
            continue
        if current is None:
            raise MalformedData(f"{path}, line {number}: a token before the first `# user:` line")
        _add_token(current, path, number, line, labels)
    if current is None:
        raise MalformedData(f"{path}: there is no exercise")
    yield current


def _header(path: Path, number: int, line: str) -> _Exercise:
    fields = dict(part.partition(":")[::2] for part in line[1:].split())
    try:
        return _Exercise(number, fields["user"], float(fields["days"]))
    except (KeyError, ValueError) as error:
        raise MalformedData(f"{path}, line {number}: expected `# user:NAME ... days:NUMBER ...`") from error


def _add_token(exercise: _Exercise, path: Path, number: int, line: str, labels: dict[str, str] | None) -> None:
    fields = line.split()
    if len(fields) not in (6, 7) or not re.fullmatch(r"\S{10}\d\d", fields[0]):
        raise MalformedData(
            f"{path}, line {number}: expected a token's id, text, part of speech, morphology, two of its syntax, and "
            f"its label, found {len(fields)} fields"
        )
    label = fields[6] if len(fields) == 7 else (labels or {}).get(fields[0])
    if label is None:
        raise MalformedData(
            f"{path}, line {number}: the token has no label, and {_key_file(path).name} "
            + ("is not there" if labels is None else "has none for it")
        )
    if label not in ("0", "1"):
        raise MalformedData(f"{path}, line {number}: the label is {label!r}, neither 0 nor 1")
    exercise.instance = fields[0][:-2]
    exercise.words.append(fields[1])
    exercise.mistakes += label == "1"


def _labels(path: Path) -> dict[str, str] | None:
    """Token id to label; None where there is no such file."""
    if not path.is_file():
        return None
    found: dict[str, str] = {}
    for number, line in lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise MalformedData(f"{path}, line {number}: expected a token's id and its label")
        found[fields[0]] = fields[1]
    return found
