"""What a failing line costs its paired block: nothing but itself."""

import os
import signal
from collections import Counter

import psutil
import pytest

from bench.results import store
from bench.running import paired
from bench.running.events import BlockBegan, Finished, TookTurn
from tests.bench._paired import PAIR, items, of, settings, short
from tests.bench._processes import is_worker
from tests.bench._small_runs import ample_s, new_run, run


class TestFailures:
    def test_a_failing_line_costs_nothing_but_itself(self, tmp_path):
        chosen = settings(timeout_s=ample_s(tmp_path / "ample"))
        failing = [(name, 0) for name in ("kills_itself", "raises", "outgrows_the_host", "hangs", "needs_a_library")]
        work = items([*failing, *PAIR])
        counts, events, records = run(chosen, new_run(tmp_path, chosen), work)
        assert short(records)[:7] == [
            ("kills_itself", 0, 0, "error"),
            ("raises", 0, 0, "error"),
            ("outgrows_the_host", 0, 0, "oom"),
            ("hangs", 0, 0, "timeout"),
            ("needs_a_library", 0, 0, "skipped"),
            ("e2e", 0, 0, "ok"),
            ("single_step", 0, 0, "ok"),
        ]
        assert [record.outcome for record in records[7:]] == ["skipped"] * 5 + ["ok"] * 2
        assert {record.schedule for record in records if record.outcome == "ok"} == {"interleaved"}
        assert (
            records[11].reason == records[4].reason == ("no-such-library is not installed: pip install no-such-library")
        )
        assert records[8].reason == "raises (eager) failed in block 0 (error): LookupError: the item"
        assert counts.outcomes == Counter(error=2, oom=1, timeout=1, ok=4, skipped=6)
        assert [event.record for event in of(events, Finished)] == list(records)
        assert {record.block_records for record in records} == {7}

    @pytest.mark.parametrize("block", [0, 1])
    def test_a_worker_killed_in_a_round_leaves_the_others_theirs(self, tmp_path, block):
        """kill -9 right after its turn, as the kernel's out-of-memory killer does it."""
        chosen = settings(blocks=3, max_blocks=3)
        run_dir = new_run(tmp_path, chosen)
        began: list[BlockBegan] = []
        victims: list[int] = []

        def kill_a_worker(event) -> None:
            if isinstance(event, BlockBegan):
                began.append(event)
            in_the_block = isinstance(event, TookTurn) and began[-1].schedule == "interleaved"
            if in_the_block and event.item.block == block and not victims:
                victims.append(newest_worker())
                os.kill(victims[0], signal.SIGKILL)

        paired.run(chosen, run_dir, items(blocks=3), kill_a_worker)
        records = store.load(run_dir).records
        here = {outcome: method for method, _, number, outcome in short(records) if number == block}
        assert here.keys() == {"error", "ok"}
        assert next(r.reason for r in records if r.outcome == "error").startswith("the worker was killed by SIGKILL")
        after = [(r.method, r.outcome) for r in records if r.block > block]
        assert after.count((here["ok"], "ok")) == after.count((here["error"], "skipped")) == 2 - block
        before = store.load(run_dir).records
        counts, _, records = run(chosen, run_dir, items(blocks=3))
        assert (counts.total, records) == (0, before)


def newest_worker() -> int:
    """The worker that was started last: the fork server's children have no others."""
    workers = [p for p in psutil.Process().children(recursive=True) if is_worker(p)]
    return max(workers, key=lambda process: process.create_time()).pid
