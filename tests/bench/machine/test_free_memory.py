"""Do several workers fit into memory together?"""

import pytest

from bench.machine import memory
from bench.machine.memory import CUDA_CONTEXT_BYTES, Room, fit, needed
from bench.results.schema import PeakMemory, Record

GIB = 2**30


def record(resident=None, **peaks) -> Record:
    return Record(
        case={}, method="e2e", engine="eager", block=0, exactness="exact", outcome="ok",
        peak_memory_bytes=PeakMemory(**peaks), detail={"resident_peak_bytes": resident} if resident else {},
    )  # fmt: skip


def test_a_worker_on_a_processor_needs_main_memory():
    assert needed(record(process=GIB)) == Room(GIB, 0)
    assert needed(record()) is None


def test_a_worker_on_a_gpu_needs_both():
    assert needed(record(resident=2, allocated=3, reserved=4, process=5 * GIB)) == Room(2, 5 * GIB)


def test_a_driver_that_tells_nothing_of_the_process_leaves_the_allocator_and_a_context():
    assert needed(record(resident=2, allocated=3, reserved=GIB)) == Room(2, GIB + CUDA_CONTEXT_BYTES)


@pytest.mark.parametrize(
    ("needs", "free", "fits"),
    [
        ([Room(4, 0)] * 2, Room(10, None), True),
        ([Room(4, 0)] * 3, Room(10, None), False),
        ([Room(1, 45)] * 2, Room(10, 100), True),
        ([Room(1, 46)] * 2, Room(10, 100), False),
        ([Room(6, 1)] * 2, Room(10, 100), False),
        ([Room(1, 1), None], Room(10, 100), False),
        ([Room(1, 1)], Room(10, None), False),
        ([Room(None, 1)], Room(10, 10), True),
    ],
)
def test_some_of_what_is_free_stays_free_and_what_is_unknown_does_not_fit(needs, free, fits):
    assert fit(needs, free) is fits


def test_a_control_groups_limit_counts(tmp_path):
    assert memory._group_limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory._group_limits(tmp_path) == [600]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_limits(tmp_path) == []


def test_this_machine_has_main_memory_and_no_device_that_is_not_asked_for():
    assert memory.free(None).host > 0
    assert memory.free(None).device is None
    assert memory.free("GPU-00000000-0000-0000-0000-000000000000").device is None


def test_where_no_control_group_sets_a_limit_the_machines_memory_is_what_counts(monkeypatch):
    monkeypatch.setattr(memory, "_group_limits", lambda: [])
    assert memory.free(None).host > 0
