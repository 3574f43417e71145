"""Rows in any order to a log user by user, without ever holding all of them: an external bucket sort.

A row goes to the bucket of its user, appended to a file; then one bucket after the other is sorted in memory. Users
come out bucket by bucket, which is as good an order of users as any.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.workloads._log import LogWriter

BUCKETS = 64
"""100 million rows make buckets of 27 MB."""
ROW = np.dtype([("user", np.int32), ("item", np.int32), ("time", np.float64), ("label", np.uint8)])


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
        times: NDArray[np.float64],
        labels: NDArray[np.integer] | NDArray[np.bool_],
    ) -> None:
        """Some rows [n] more."""
        rows = np.empty(len(users), dtype=ROW)
        rows["user"], rows["item"], rows["time"], rows["label"] = users, items, times, labels
        bucket = rows["user"] % BUCKETS
        rows = rows[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        for file, part in zip(self._files, np.split(rows, ends[:-1]), strict=True):
            part.tofile(file)

    def write(self, writer: LogWriter, *, drop_duplicates: bool) -> Counter[str]:
        """Appends everything to the log; returns how many rows were dropped, by reason.

        drop_duplicates: of rows equal in all four values only the first stays. Users with one interaction are dropped:
        there is nothing before it to predict it from.
        """
        dropped: Counter[str] = Counter()
        for file in self._files:
            file.seek(0)
            rows = np.fromfile(file, dtype=ROW)
            file.close()
            rows = rows[np.lexsort((rows["time"], rows["user"]))]  # stable: ties keep the order of coming
            if drop_duplicates:
                repeated = _repeated(rows)
                dropped["duplicate row"] += int(repeated.sum())
                rows = rows[~repeated]
            _, place, lengths = np.unique(rows["user"], return_inverse=True, return_counts=True)
            alone = lengths[place] == 1
            dropped["user with one interaction"] += int(alone.sum())
            rows = rows[~alone]
            writer.append(lengths[lengths > 1], rows["item"], rows["label"])
        return +dropped


def _repeated(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of rows sorted by user and time equal an earlier one."""
    found = np.zeros(len(rows), dtype=bool)
    if len(rows) < 2:
        return found
    same = (rows["user"][1:] == rows["user"][:-1]) & (rows["time"][1:] == rows["time"][:-1])
    tied = np.flatnonzero(np.append(False, same) | np.append(same, False))  # equal rows stand among these
    group = rows[tied]
    order = np.lexsort((group["label"], group["item"], group["time"], group["user"]))  # stable
    ordered = group[order]
    found[tied[order[1:]]] = ordered[1:] == ordered[:-1]
    return found
