"""The Triton side of `adamw`: one launch for all parameters, through a table of their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels.adamw import PIECE

if TYPE_CHECKING:
    from gram_core.kernels.adamw import Entry, Group, Moments

BLOCK = 2048
REPEATS = PIECE // BLOCK
COLUMNS = 10
"""Of the table: parameter, gradient, its kind, both moments, step, copy (0: none), elements, group, touched (0: none).
"""
_FLOAT32, _BF16 = 0, 1


@triton.jit
def _adamw_kernel(
    table, settings, entry_of, first_of,
    columns: tl.constexpr, block: tl.constexpr, repeats: tl.constexpr, aligned: tl.constexpr,
):  # fmt: skip
    row = table + tl.load(entry_of + tl.program_id(0)).to(tl.int64) * columns
    first = tl.load(first_of + tl.program_id(0))
    parameter = tl.load(row).to(tl.pointer_type(tl.float32))
    gradient_address = tl.load(row + 1)
    kind = tl.load(row + 2)
    exp_avg = tl.load(row + 3).to(tl.pointer_type(tl.float32))
    exp_avg_sq = tl.load(row + 4).to(tl.pointer_type(tl.float32))
    step = tl.load(tl.load(row + 5).to(tl.pointer_type(tl.float32))).to(tl.float64)
    copy_address = tl.load(row + 6)
    count = tl.load(row + 7)
    setting = settings + tl.load(row + 8) * 5
    rate = tl.load(setting)
    kept = (1.0 - rate * tl.load(setting + 1)).to(tl.float32)
    beta1 = tl.load(setting + 2)
    beta2 = tl.load(setting + 3)
    eps = tl.load(setting + 4).to(tl.float32)
    size = (rate / (1.0 - tl.exp(step * tl.log(beta1)))).to(tl.float32)
    root = tl.sqrt(1.0 - tl.exp(step * tl.log(beta2))).to(tl.float32)
    new1 = (1.0 - beta1).to(tl.float32)
    new2 = (1.0 - beta2).to(tl.float32)
    old2 = beta2.to(tl.float32)
    wide = gradient_address.to(tl.pointer_type(tl.float32))
    narrow = gradient_address.to(tl.pointer_type(tl.bfloat16))
    copy = copy_address.to(tl.pointer_type(tl.bfloat16))
    if aligned:
        first = tl.multiple_of(first, 16)
        count = tl.multiple_of(count, 16)
        parameter = tl.multiple_of(parameter, 16)
        exp_avg = tl.multiple_of(exp_avg, 16)
        exp_avg_sq = tl.multiple_of(exp_avg_sq, 16)
        wide = tl.multiple_of(wide, 16)
        narrow = tl.multiple_of(narrow, 16)
        copy = tl.multiple_of(copy, 16)
    touched_address = tl.load(row + 9)
    touched = 1
    if touched_address != 0:
        touched = tl.load(touched_address.to(tl.pointer_type(tl.int32)) + first // (block * repeats))
    if touched == 0:  # neither gradient nor state: it decays, where anything does
        if kept != 1.0:
            for repeat in range(repeats):
                place = first + repeat * block + tl.arange(0, block)
                p = tl.load(parameter + place, mask=place < count, other=0.0) * kept
                tl.store(parameter + place, p, mask=place < count)
    else:
        for repeat in range(repeats):
            place = first + repeat * block + tl.arange(0, block)
            held = place < count
            if kind == 1:
                g = tl.load(narrow + place, mask=held, other=0.0).to(tl.float32)
            else:
                g = tl.load(wide + place, mask=held, other=0.0)
            p = tl.load(parameter + place, mask=held, other=0.0) * kept
            m = tl.load(exp_avg + place, mask=held, other=0.0)
            v = tl.load(exp_avg_sq + place, mask=held, other=0.0)
            m += (g - m) * new1
            v = v * old2 + g * g * new2
            p -= size * m / (tl.sqrt(v) / root + eps)
            tl.store(parameter + place, p, mask=held)
            tl.store(exp_avg + place, m, mask=held)
            tl.store(exp_avg_sq + place, v, mask=held)
            if copy_address != 0:
                tl.store(copy + place, p.to(tl.bfloat16), mask=held)
            if touched_address != 0:
                tl.store(wide + place, tl.zeros((block,), dtype=tl.float32), mask=held)


class Launch:
    """The table on the device, and what it was made from."""

    def __init__(self, parts: Sequence[Sequence[Entry]], moments: Sequence[Moments], groups: Sequence[Group]):
        self._entries = [entry for part in parts for entry in part]
        device = self._entries[0].parameter.device
        self._table = torch.tensor(self._addresses(moments), dtype=torch.int64, device=device)
        self._settings = torch.zeros(len(groups), 5, dtype=torch.float64, device=device)
        self._set: list[tuple[float, ...]] | None = None
        self.set(groups)
        self._programs: list[tuple[Tensor, Tensor]] = []
        """Of each part: which entry a program moves a piece of, and the piece's first element."""
        number = 0
        for part in parts:
            pieces = [
                (number + place, first)
                for place, entry in enumerate(part)
                for first in range(0, entry.parameter.numel(), BLOCK * REPEATS)
            ]
            number += len(part)
            of_entry, first_of = torch.tensor(pieces, dtype=torch.int64, device=device).view(-1, 2).t().contiguous()
            self._programs.append((of_entry.to(torch.int32), first_of))
        tensors = [t for e in self._entries for t in (e.parameter, e.gradient, e.copy) if t is not None]
        self._aligned = all(t.numel() % 16 == 0 and t.data_ptr() % 16 == 0 for t in tensors)

    def step(self, part: int, groups: Sequence[Group]) -> None:
        """See `FusedAdamW.step`; a learning rate on the device is read from there."""
        for number, (rate, *_) in enumerate(groups):
            if isinstance(rate, Tensor):
                self._settings[number, 0].copy_(rate)
        of_entry, first_of = self._programs[part]
        _adamw_kernel[(len(of_entry),)](
            self._table, self._settings, of_entry, first_of,
            columns=COLUMNS, block=BLOCK, repeats=REPEATS, aligned=self._aligned, num_warps=4,
        )  # fmt: skip

    def move_to(self, moments: Sequence[Moments]) -> None:
        """Reads and writes these from now on."""
        self._table.copy_(torch.tensor(self._addresses(moments), dtype=torch.int64))

    def set(self, groups: Sequence[Group]) -> None:
        """Writes the settings where one has changed."""
        numbers = [tuple(0.0 if isinstance(value, Tensor) else value for value in group) for group in groups]
        if numbers != self._set:
            self._set = numbers
            self._settings.copy_(torch.tensor(numbers, dtype=torch.float64))

    def _addresses(self, moments: Sequence[Moments]) -> list[list[int]]:
        return [
            [
                entry.parameter.data_ptr(),
                entry.gradient.data_ptr(),
                _BF16 if entry.gradient.dtype == torch.bfloat16 else _FLOAT32,
                *(tensor.data_ptr() for tensor in of_entry),
                0 if entry.copy is None else entry.copy.data_ptr(),
                entry.parameter.numel(),
                entry.group,
                0 if entry.touched is None else entry.touched.data_ptr(),
            ]
            for entry, of_entry in zip(self._entries, moments, strict=True)
        ]
