"""Host inputs on their way: no block is written before its last copy is done, and nobody waits without need."""

from __future__ import annotations

import pytest
import torch

from gram_core.engines._captured import CapturedFunction, Inputs, Outputs
from gram_core.engines._staging import FEWEST_BLOCKS, MOST_BLOCKS, MOST_BYTES, Event, Staging

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class _Copy:
    """A copy that is done when somebody has waited for it."""

    waited: list[int]
    """Which of them were waited for while on their way, of all in the order of their blocks."""

    def __init__(self, number: int):
        self.number, self.done = number, True

    def record(self) -> None:
        self.done = False

    def synchronize(self) -> None:
        if not self.done:
            _Copy.waited.append(self.number)
        self.done = True


class _LaggingStaging(Staging):
    """As on a device that copies when it must."""

    def __init__(self, size: int):
        self._made = 0
        _Copy.waited = []
        super().__init__(size, torch.device("cpu"))

    def _event(self) -> Event:
        self._made += 1
        return _Copy(self._made - 1)


def _sent(staging: Staging, number: int) -> None:
    staging.send([torch.tensor([number], dtype=torch.int32)], torch.empty(1, dtype=torch.int32))


def test_parts_arrive_one_behind_the_other() -> None:
    staging, arrived = Staging(5, torch.device("cpu")), torch.zeros(5, dtype=torch.int32)
    for start in (0, 10):
        staging.send(
            [torch.arange(start, start + 2, dtype=torch.int32), torch.full((3,), 7, dtype=torch.int32)], arrived
        )
        assert arrived.tolist() == [start, start + 1, 7, 7, 7]


def test_a_block_on_its_way_is_written_after_waiting_for_it_alone() -> None:
    staging = _LaggingStaging(1)
    for number in range(MOST_BLOCKS):
        _sent(staging, number)
    assert [int(block.memory) for block in staging.blocks] == list(range(MOST_BLOCKS))
    assert _Copy.waited == [], "the host need not wait while there are blocks"
    for number in range(2):
        _sent(staging, 100 + number)
    assert _Copy.waited == [0, 1]
    assert [int(block.memory) for block in staging.blocks] == [100, 101, *range(2, MOST_BLOCKS)]


@pytest.mark.parametrize("size", [0, 1, MOST_BYTES // 4 // MOST_BLOCKS, MOST_BYTES // 32, MOST_BYTES])
def test_blocks_take_no_more_than_their_bytes_unless_few_do(size: int) -> None:
    blocks = Staging(size, torch.device("cpu")).blocks
    assert FEWEST_BLOCKS <= len(blocks) <= MOST_BLOCKS
    assert 4 * size * len(blocks) <= MOST_BYTES or len(blocks) == FEWEST_BLOCKS
    assert 4 * size * (len(blocks) + 1) > MOST_BYTES or len(blocks) == MOST_BLOCKS


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
            "responses": torch.rand(6, generator=generator),
            "wide": torch.rand(1, 3, generator=generator, dtype=torch.float64),
            "mask": torch.rand(7, generator=generator) > 0.5,
            "scattered": torch.rand(4, 6, generator=generator)[:, ::2],
            "column": torch.randint(0, 99, (5, 3), generator=generator)[:, 1],
            "wide_column": torch.rand(5, 3, generator=generator, dtype=torch.float64)[:, 1],
            "none": torch.empty(0, 4),
            "scalar": torch.tensor(2**33 + 1),
        }
        for found, (_, sent) in zip(function(inputs), sorted(inputs.items()), strict=True):
            assert found.dtype == sent.dtype
            assert torch.equal(found.cpu(), sent)
    assert len(function.counts.signatures) == 1


@NEEDS_GPU
def test_inputs_of_calls_that_the_device_lags_behind_stay_apart() -> None:
    function = CapturedFunction(lambda inputs: (inputs["numbers"] * 2,), torch.device("cuda"))
    sent = [torch.arange(1000) + number for number in range(3 * MOST_BLOCKS)]
    for numbers in sent[:2]:
        function({"numbers": numbers})  # run, then captured
    torch.cuda._sleep(10**8)
    found = [function({"numbers": numbers})[0].clone() for numbers in sent]
    assert all(torch.equal(doubled.cpu(), numbers * 2) for doubled, numbers in zip(found, sent, strict=True))
