"""`encode` on a GPU: ids on either side, dropout that is drawn on the device, autocast, one gradient."""

from __future__ import annotations

import pytest
import torch

from gram_core import Deduplicated, MultiStepEncodings, encode
from gram_core.exactness import gradients, relative_errors
from tests.gram_core import _own_loop as loop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run(ids_on, keep, dropout=0.0, amp=False, chunk=4):
    model, tower = loop.text_model(dropout).cuda(), loop.tower()
    encoder = Deduplicated(model, loop.TOKENS, collate=loop.padded, pool="mean")
    torch.manual_seed(5)
    with torch.autocast("cuda", torch.bfloat16, enabled=amp):
        rows = encode(encoder, *(ids.to(ids_on) for ids in loop.batch()), chunk=chunk, keep=keep)
    assert rows[0].device.type == "cuda"
    tower(*(row.cpu().double() for row in rows)).backward()
    return {name: value.cpu() for name, value in gradients({"encoder": model, "tower": tower}).items()}


@pytest.mark.parametrize("ids_on", ["cpu", "cuda"])
@pytest.mark.parametrize("keep", [None, 0, 6])
def test_gradients_are_the_naive_loops(ids_on, keep):
    assert max(relative_errors(run(ids_on, keep), loop.naive_gradients()).values()) < 1e-10


@pytest.mark.parametrize("ids_on", ["cpu", "cuda"])
def test_dropout_drawn_on_the_device_is_replayed(ids_on):
    """Also where ids, and so all arguments of the recomputed function, are on the host."""
    kept, again = run(ids_on, None, dropout=0.3), run(ids_on, 0, dropout=0.3)
    assert max(relative_errors(again, kept).values()) < 1e-10
    other = run(ids_on, None, dropout=0.3, chunk=None)
    assert max(relative_errors(other, loop.naive_gradients()).values()) > 1e-3


@pytest.mark.parametrize("ids_on", ["cpu", "cuda"])
def test_what_recomputes_keeps_its_autocast(ids_on):
    assert max(relative_errors(run(ids_on, 0, amp=True), run(ids_on, None, amp=True)).values()) < 1e-6


def test_multi_step_with_ids_on_the_device():
    model, tower = loop.text_model().cuda(), loop.tower()
    encoder = Deduplicated(model, loop.TOKENS, collate=loop.padded, pool="mean")
    targets = MultiStepEncodings(encoder, torch.Tensor.backward, accumulation_steps=1)
    tower(*(row.cpu() for row in targets.encode(*(ids.cuda() for ids in loop.batch())))).backward()
    targets.step()
    found = {name: value.cpu() for name, value in gradients({"encoder": model, "tower": tower}).items()}
    assert max(relative_errors(found, loop.naive_gradients()).values()) < 1e-10
