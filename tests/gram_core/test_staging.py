"""Host inputs on their way: no block is written before its last copy is done, and nobody waits without need."""

from __future__ import annotations

import pytest
import torch

from gram_core.engines._captured import CapturedFunction, Inputs, Outputs
from gram_core.engines._staging import Event, Staging

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class _Copy:
    """A copy that is done when the test says so, or when somebody waits for it."""

    waited = 0

    def __init__(self) -> None:
        self.done = True

    def record(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        _Copy.waited += not self.done
        self.done = True


class _LaggingStaging(Staging):
    """As on a device that copies later."""

    def _event(self) -> Event:
        return _Copy()


def _sent(staging: Staging, number: int) -> None:
    staging.send([torch.tensor([number], dtype=torch.int32)], torch.empty(1, dtype=torch.int32))


def _copies(staging: Staging) -> list[tuple[int, _Copy]]:
    found = []
    for block in staging.blocks:
        assert isinstance(block.copied, _Copy)
        found.append((int(block.memory), block.copied))
    return found


def test_parts_arrive_one_behind_the_other() -> None:
    staging, arrived = Staging(5, torch.device("cpu")), torch.zeros(5, dtype=torch.int32)
    for start in (0, 10):
        staging.send(
            [torch.arange(start, start + 2, dtype=torch.int32), torch.full((3,), 7, dtype=torch.int32)], arrived
        )
        assert arrived.tolist() == [start, start + 1, 7, 7, 7]
    assert len(staging.blocks) == 1, "where copies are done at once, one block does"


def test_a_block_on_its_way_is_not_written() -> None:
    """As many blocks as there are calls in flight, and the numbers in each stay."""
    _Copy.waited, staging = 0, _LaggingStaging(1, torch.device("cpu"), most=3)
    for number in range(3):
        _sent(staging, number)
    assert [number for number, _ in _copies(staging)] == [0, 1, 2]
    assert not _Copy.waited


def test_only_a_full_line_is_waited_for_at_its_front() -> None:
    _Copy.waited, staging = 0, _LaggingStaging(1, torch.device("cpu"), most=3)
    for number in range(4):
        _sent(staging, number)
    assert _Copy.waited == 1
    assert [number for number, _ in _copies(staging)] == [1, 2, 3]
    assert not any(copy.done for _, copy in _copies(staging))


def test_a_block_that_has_arrived_is_taken_again() -> None:
    _Copy.waited, staging = 0, _LaggingStaging(1, torch.device("cpu"), most=3)
    _sent(staging, 0)
    for number in range(1, 5):
        _copies(staging)[-1][1].done = True
        _sent(staging, number)
    assert len(staging.blocks) == 1
    assert not _Copy.waited


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_inputs_arrive_whole_whatever_their_dtype(device: str) -> None:
    """Numbers of four and eight bytes share a block; whatever lay there before, each call reads its own."""

    def look(inputs: Inputs) -> Outputs:
        return tuple(inputs[name].clone() for name in sorted(inputs))

    function = CapturedFunction(look, torch.device(device))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        inputs = {
            "odd": torch.randint(-9, 9, (3,), generator=generator, dtype=torch.int32),
            "targets": torch.randint(-(2**40), 2**40, (2, 2), generator=generator),
            "responses": torch.rand(5, generator=generator),
            "wide": torch.rand(1, 3, generator=generator, dtype=torch.float64),
            "mask": torch.rand(7, generator=generator) > 0.5,
            "scattered": torch.rand(4, 6, generator=generator)[:, ::2],
            "none": torch.empty(0, 4),
            "scalar": torch.tensor(2**33 + 1),
        }
        for found, (_, sent) in zip(function(inputs), sorted(inputs.items()), strict=True):
            assert found.dtype == sent.dtype
            assert torch.equal(found.cpu(), sent)
    assert len(function.counts.signatures) == 1
