"""Several processes measured as one: what is recorded, and what is left when one of them goes."""

import contextlib
import os
import signal
from dataclasses import replace

import pytest
import torch

from bench.measure.sample import LEAST
from bench.running.events import Finished
from tests.bench._processes import PATIENCE_S, family, gone, manage
from tests.bench._small_runs import ample_s, config, item, new_run, run


def test_a_case_of_two_processes(tmp_path):
    """Counts are of both together, peaks of each, and a shared item is encoded once."""
    settings = config()
    together = ((1, "local"), (2, "local"), (2, "global"))
    items = [item("single_step", world_size=size, deduplicate=way) for size, way in together]
    *_, (one, local, shared) = run(settings, new_run(tmp_path, settings), items)
    assert [record.outcome for record in (one, local, shared)] == ["ok"] * 3, (local.reason, shared.reason)
    assert (one.users, local.users, shared.users) == (2, 4, 4)
    assert local.item_slots == shared.item_slots == 2 * one.item_slots
    assert local.unique_items == shared.unique_items < sum(rank.unique_items for rank in local.ranks)
    assert shared.encoded_tokens < local.encoded_tokens
    assert one.ranks == ()
    assert one.communication_s is None
    for record in (local, shared):
        assert len(record.ranks) == 2
        assert 0 <= record.communication_s < max(record.samples_s)
        assert record.peak_memory_bytes.process == max(rank.peak_memory_bytes.process for rank in record.ranks)
        assert record.detail.timed_typical
        assert record.detail.ratio_batches >= LEAST
        assert record.detail.resident_peak_bytes == sum(rank.resident_peak_bytes for rank in record.ranks)
    assert local.loss.first == pytest.approx(shared.loss.first, rel=1e-5)
    assert local.loss.last == pytest.approx(shared.loss.last, rel=1e-3)


@pytest.mark.parametrize(
    ("how", "outcome", "reason"),
    [
        ("dies", "error", "process 1 of 2 was killed by SIGKILL in the run, often the kernel's out-of-memory killer"),
        ("outgrows", "oom", "out of memory in the warm-up: asked for 1048576.00 GiB"),
        ("raises", "error", "RuntimeError: one of many"),
    ],
)
def test_a_lost_process_ends_the_case_at_once(tmp_path, how, outcome, reason):
    """The others wait in an exchange that never comes: their complaints are not the reason."""
    settings = config({"one_rank": {"how": how}})
    *_, (lost,) = run(settings, new_run(tmp_path, settings), [item("one_rank", world_size=2, deduplicate="global")])
    assert (lost.outcome, lost.reason) == (outcome, reason)
    assert lost.case["world_size"] == 2


def test_a_hanging_process_is_ended_in_time_with_all_others(tmp_path):
    settings = config({"one_rank": {"how": "hangs"}}, timeout_s=ample_s(tmp_path / "ample"))
    _, events, records = run(settings, new_run(tmp_path, settings), [item("one_rank", world_size=2), item("e2e")])
    assert [record.outcome for record in records] == ["timeout", "ok"]
    assert next(event.took_s for event in events if isinstance(event, Finished)) >= settings.run.timeout_s


def test_a_killed_manager_leaves_no_process_of_several(tmp_path):
    """Even one whose every thread is stuck behind the interpreter's lock goes with it."""
    pipe = tmp_path / "reached"
    os.mkfifo(pipe)
    settings = config({"one_rank": {"how": "hangs", "reached": str(pipe)}})
    process = manage(new_run(tmp_path, settings), "one_rank")
    worker = int(pipe.read_text())
    descendants = family(process.pid)
    assert worker in descendants
    process.kill()
    try:
        assert gone(descendants)
    finally:
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)


def test_a_paired_block_of_several_processes(tmp_path):
    """Lines of two processes each take turns as those of one do."""
    settings = config(blocks=1, canary=True, rounds=2, max_blocks=1, memory="same")
    items = [item(method, world_size=2, deduplicate="global") for method in ("e2e", "single_step")]
    *_, records = run(settings, new_run(tmp_path, settings), items)
    assert [(record.method, record.outcome) for record in records] == [("e2e", "ok"), ("single_step", "ok")]
    assert {record.schedule for record in records} == {"alternated"}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("engine", ["eager", "fast"])
def test_a_case_of_two_gpus(tmp_path, engine):
    """Over NCCL the same as over Gloo: the losses of one method, whoever encodes what, are those of e2e."""
    settings = config(device="cuda", timeout_s=200.0)
    lines = [("e2e", "local"), ("single_step", "local"), ("single_step", "global")]
    items = [item(method, world_size=2, deduplicate=way, precision="bf16") for method, way in lines]
    items = [replace(each, line=replace(each.line, engine=engine)) for each in items]
    *_, records = run(settings, new_run(tmp_path, settings), items)
    assert [(record.outcome, record.reason) for record in records] == [("ok", None)] * 3
    first, *others = records
    for record in others:
        assert record.loss.last == pytest.approx(first.loss.last, rel=2e-2)
    assert all(rank.peak_memory_bytes.allocated for record in records for rank in record.ranks)


def test_a_method_that_is_for_one_process_is_refused(tmp_path):
    settings = config()
    *_, (refused,) = run(settings, new_run(tmp_path, settings), [item("frozen", world_size=2)])
    assert refused.outcome == "error"
    assert "frozen trains in one process" in refused.reason
