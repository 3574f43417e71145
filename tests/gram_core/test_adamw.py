"""`FusedAdamW` moves as `torch.optim.AdamW`, whole parameters and tables of which few rows have a gradient."""

from __future__ import annotations

import copy

import pytest
import torch

from gram_core.kernels.adamw import PIECE, Entry, FusedAdamW

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_DEVICE = {"capturable": DEVICE.type == "cuda"}
"""As the engine's optimizers count their steps."""
ROWS, WIDTH = 90, 768
"""Rows lie across pieces, and the last piece is not full."""


def test_every_parameter_moves_as_torchs() -> None:
    torch.manual_seed(0)
    mine = [torch.randn(size, device=DEVICE, requires_grad=True) for size in ((ROWS, WIDTH), (33,), (64, 48))]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    optimizer, reference = (torch.optim.AdamW(some, lr=0.05, weight_decay=0.1, **ON_DEVICE) for some in (mine, theirs))
    touched = torch.zeros(-(-ROWS * WIDTH // PIECE), dtype=torch.int32, device=DEVICE)
    table = torch.zeros(ROWS, WIDTH, device=DEVICE)
    others = [torch.empty(33, device=DEVICE), torch.empty(64, 48, device=DEVICE, dtype=torch.bfloat16)]
    narrow = torch.empty(64, 48, device=DEVICE, dtype=torch.bfloat16)
    parts = [[Entry(mine[2], others[1], narrow, 0)], [Entry(mine[1], others[0], None, 0)]]
    parts[1].append(Entry(mine[0], table, None, 0, touched))
    fused = FusedAdamW(optimizer, parts)
    for step in range(5):
        rows = torch.tensor([[3, 40], [3, 89], [0, 1], [50, 51], []][step], dtype=torch.int64, device=DEVICE)
        table[rows] = torch.randn(len(rows), WIDTH, device=DEVICE)
        for end in (rows * WIDTH, rows * WIDTH + WIDTH - 1):
            touched[end // PIECE] = 1
        for gradient in others:
            gradient.copy_(torch.randn(gradient.shape, device=DEVICE))
        for parameter, gradient in zip(theirs, (table, *others), strict=True):
            parameter.grad = gradient.to(parameter.dtype, copy=True)
        if step == 3:  # another optimizer's state, with moments where no row was read
            state = copy.deepcopy(reference.state_dict())
            state["state"][0]["exp_avg"][70] = 0.5
            state["state"][0]["exp_avg_sq"][70] = 0.1
            reference.load_state_dict(state)
            optimizer.load_state_dict(copy.deepcopy(state))
        reference.step()
        fused.refresh()
        for part in range(2):
            fused.step(part)
        assert not table.any(), "what was read is zeros again"
        for parameter, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-5, atol=40 * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(narrow, mine[2].to(torch.bfloat16))
    assert 0 < int(touched.count_nonzero()) < len(touched)


def test_state_that_somebody_else_writes_is_met() -> None:
    parameter = torch.ones(2 * PIECE, device=DEVICE, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0, **ON_DEVICE)
    touched = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    fused = FusedAdamW(optimizer, [[Entry(parameter, torch.zeros_like(parameter), None, 0, touched)]])
    fused.refresh()
    fused.step(0)
    assert touched.tolist() == [0, 0]
    assert bool((parameter == 1).all())
    optimizer.state[parameter]["exp_avg"][-1] = 1.0
    optimizer.state[parameter]["exp_avg_sq"][-1] = 1.0
    fused.refresh()
    fused.step(0)
    assert touched.tolist() == [0, 1]
    assert float(parameter.detach()[-1]) < 1.0


@pytest.mark.parametrize("count", [1, PIECE - 1, PIECE, PIECE + 1])
def test_sizes_around_a_piece(count: int) -> None:
    parameter = torch.ones(count, device=DEVICE, requires_grad=True)
    other = parameter.detach().clone().requires_grad_()
    optimizer, reference = (
        torch.optim.AdamW([parameter], lr=0.1, **ON_DEVICE),
        torch.optim.AdamW([other], lr=0.1, **ON_DEVICE),
    )
    gradient = torch.linspace(-1, 1, count, device=DEVICE)
    touched = torch.ones(-(-count // PIECE), dtype=torch.int32, device=DEVICE)
    other.grad = gradient.clone()
    reference.step()
    FusedAdamW(optimizer, [[Entry(parameter, gradient, None, 0, touched)]]).step(0)
    torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)
