"""`encode` with DistributedDataParallel: two processes leave the mean of the naive loops' gradients, on both."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from bench.processes import fork_server
from gram_core.exactness import gradients, relative_errors
from tests.gram_core import _own_loop as loop
from tests.gram_core import _own_loop_ranks as ranks


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What each of two processes was left with, by case, and what it was refused with."""
    folder = tmp_path_factory.mktemp("ranks")
    fork_server.warm_fork_server()
    mp.start_processes(ranks.run, (str(folder),), nprocs=2, start_method="forkserver")
    return [(torch.load(folder / f"{rank}.pt"), (folder / f"{rank}.txt").read_text()) for rank in range(2)]


def expected(case):
    """The mean over ranks of the gradients of loops that encode every slot."""
    both = []
    for rank in range(2):
        model, tower = loop.text_model(), loop.tower()
        ids = ranks.batch_of(rank, case)
        for _ in range(2 if case == "two batches, one sum" else 1):
            tower(*(loop.naive(model, part) for part in ids)).backward()
        both.append(gradients({"encoder": model, "tower": tower}))
    return {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}


@pytest.mark.parametrize("case", ranks.CASES)
def test_gradients_are_the_mean_of_the_naive_loops(left, case):
    """Ranks have different numbers of chunks; the wrapper's collectives must not depend on them."""
    wanted = expected(case)
    for found, _ in left:
        assert max(relative_errors(found[case], wanted).values()) < 1e-10


def test_a_wrapped_module_that_cannot_be_seen_is_an_error_in_chunks(left):
    for _, refused in left:
        chunked, multi_step = refused.split("|")
        assert "calls a DistributedDataParallel inside, once a chunk" in chunked
        assert "trains in one process" in multi_step
