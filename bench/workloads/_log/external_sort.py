"""Rows in any order to a log user by user, without ever holding all of them: an external bucket sort.

A row goes to the bucket of its user, appended to a file; then one bucket after the other is sorted in memory. Users
come out bucket by bucket, which is as good an order of users as any.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.workloads._io.times import TIME, of_numbers
from bench.workloads._log.interaction_log import LogWriter

BUCKETS = 64
"""100 million rows make buckets of 39 MB."""
ROW = np.dtype(
    [("user", np.int32), ("item", np.int32), ("whole", np.int64), ("fraction", np.float64), ("label", np.uint8)]
)
COARSE = 5
"""Different rows, beyond each user's first, that a new time of that user comes with where times are coarse."""

Repeats = Literal["auto", "drop", "keep"]
Rows = NDArray[np.void]


@dataclass
class Sorted:
    """What was done with rows that equal an earlier one, and with users of one: how many, and a (user, item) of each.

    coarse: whether times are too coarse for an equal row to be the same event written twice.
    """

    repeated: int = 0
    kept: bool = False
    coarse: bool = False
    alone: int = 0
    examples: dict[str, tuple[int, int]] = field(default_factory=dict)

    def noted(self, kind: str, rows: Rows, which: NDArray[np.bool_]) -> int:
        """How many rows these are; the first of the kind is its example."""
        for row in rows[which][:1]:
            self.examples.setdefault(kind, (int(row["user"]), int(row["item"])))
        return int(which.sum())


class UserSort:
    """Takes rows in chunks, and hands them to a LogWriter sorted by user, time, and order of coming."""

    def __init__(self, folder: Path):
        self._files = [(folder / f"bucket-{number}").open("w+b") for number in range(BUCKETS)]
        for file in self._files:
            Path(file.name).unlink()  # the file lives as long as it is open, whatever happens

    def add(
        self,
        users: NDArray[np.integer],
        items: NDArray[np.integer],
        times: NDArray[Any],
        labels: NDArray[np.integer] | NDArray[np.bool_],
    ) -> None:
        """Some rows [n] more; times: numbers, or as `bench.workloads._io.times` has them."""
        rows = np.empty(len(users), dtype=ROW)
        times = times if times.dtype == TIME else of_numbers(times)
        rows["user"], rows["item"], rows["label"] = users, items, labels
        rows["whole"], rows["fraction"] = times["whole"], times["fraction"]
        bucket = rows["user"] % BUCKETS
        rows = rows[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        for file, part in zip(self._files, np.split(rows, ends[:-1]), strict=True):
            part.tofile(file)

    def write(self, writer: LogWriter, repeats: Repeats) -> Sorted:
        """Appends everything to the log; returns what was dropped.

        repeats: of rows equal in all four values only the first stays ("drop"), or all do ("keep"); "auto" keeps them
        where times are coarse. Users with one interaction are dropped: there is nothing before it to predict it from.
        """
        done = Sorted(kept=repeats == "keep")
        if repeats == "auto":
            done.kept = done.coarse = self._coarse()
        for rows in self._buckets():
            repeated = _repeated(rows)
            done.repeated += done.noted("repeated", rows, repeated)
            if not done.kept:
                rows = rows[~repeated]
            _, place, lengths = np.unique(rows["user"], return_inverse=True, return_counts=True)
            alone = lengths[place] == 1
            done.alone += done.noted("alone", rows, alone)
            rows = rows[~alone]
            writer.append(lengths[lengths > 1], rows["item"], rows["label"])
        for file in self._files:
            file.close()
        return done

    def _buckets(self) -> Iterator[Rows]:
        """Rows of each bucket, sorted by user and time; ties keep the order of coming."""
        for file in self._files:
            file.seek(0)
            rows = np.fromfile(file, dtype=ROW)
            yield rows[np.lexsort((rows["fraction"], rows["whole"], rows["user"]))]

    def _coarse(self) -> bool:
        """Whether no user has a second time, or each such time comes with so many different rows as COARSE says."""
        users = times = different = 0
        for rows in self._buckets():
            if len(rows) > 1:
                new_user = rows["user"][1:] != rows["user"][:-1]
                new_time = new_user | (rows["whole"][1:] != rows["whole"][:-1])
                new_time |= rows["fraction"][1:] != rows["fraction"][:-1]
                users += int(new_user.sum())
                times += int(new_time.sum())
                different += len(rows) - 1 - int(_repeated(rows).sum())
        return different - users >= COARSE * (times - users)


def _repeated(rows: Rows) -> NDArray[np.bool_]:
    """Which of rows sorted by user and time equal an earlier one."""
    found = np.zeros(len(rows), dtype=bool)
    if len(rows) < 2:
        return found
    same = rows["user"][1:] == rows["user"][:-1]
    for name in ("whole", "fraction"):
        same &= rows[name][1:] == rows[name][:-1]
    tied = np.flatnonzero(np.append(False, same) | np.append(same, False))  # equal rows are among these
    group = rows[tied]
    order = np.lexsort([group[name] for name in ("label", "item", "fraction", "whole", "user")])  # stable
    ordered = group[order]
    found[tied[order[1:]]] = ordered[1:] == ordered[:-1]
    return found
