"""AdamW (Loshchilov and Hutter 2019) that reads gradients in the compute dtype and writes compute-dtype copies along.

A step of a torch optimizer on such weights casts every gradient up before and every weight down after it; here each
parameter's bytes pass once. State and its meaning are `torch.optim.AdamW`'s, so that checkpoints are interchangeable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Group = tuple[float | Tensor, float, float, float, float]
"""An optimizer's settings: learning rate (on the device where a schedule moves it), weight decay, betas, epsilon."""
Moments = tuple[Tensor, Tensor, Tensor]
"""A parameter's state: running mean of the gradient, of its square, and the steps taken."""
KEYS = ("exp_avg", "exp_avg_sq", "step")
"""As the optimizer names them."""
PIECE = 8192
"""Numbers of a parameter that one program moves."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One parameter: its gradient (any float dtype), and the copy in the compute dtype that follows it, if any.

    group: which of the optimizer's parameter groups it is in. All tensors are contiguous and of one size.
    touched: where given, int32 [pieces of `PIECE`], 0 for those without gradient and state, which decay and no more;
    what is read of the gradient of others is left as zeros.
    """

    parameter: Tensor
    gradient: Tensor
    copy: Tensor | None
    group: int
    touched: Tensor | None = None


class FusedAdamW:
    """Moves parameters as `optimizer` would, in parts that may move one after another; its state lies where it was.

    parts: the parameters of each part. A step is one call of `step` for each of them.
    """

    def __init__(self, optimizer: torch.optim.AdamW, parts: Sequence[Sequence[Entry]]):
        self._optimizer = optimizer
        self._parts = parts
        self._make_state()
        self._places = self._moments()
        self._state_versions: list[int] = []
        self._mark_state()
        self._launch = None
        if self._entries()[0].parameter.is_cuda:
            from gram_core.kernels._adamw_triton import Launch

            self._launch = Launch(parts, self._moments(), self._groups())
        self._hook = optimizer.register_load_state_dict_post_hook(self._loaded)

    def step(self, part: int) -> None:
        """A step of the parameters of one part, if it has any; nothing in it waits for the device."""
        entries = self._parts[part]
        if not entries:
            return
        torch._foreach_add_([self._optimizer.state[entry.parameter]["step"] for entry in entries], 1)
        if self._launch is not None:
            self._launch.step(part, self._groups())
            return
        for entry in entries:
            _step(entry, *self._state(entry), self._groups()[entry.group])
        self._state_versions = self._versions()

    def refresh(self) -> None:
        """Follows settings and state that were changed since; called between steps. State that was thrown away begins
        anew where it was, for captured graphs write there."""
        if not self._optimizer.state:
            for entry, moments in zip(self._entries(), self._places, strict=True):
                torch._foreach_zero_(moments)
                self._optimizer.state[entry.parameter] = dict(zip(KEYS, moments, strict=True))
        if self._versions() != self._state_versions:
            self._mark_state()
        if self._launch is not None:
            self._launch.set(self._groups())

    def release(self) -> None:
        """Is told no more of states that the optimizer loads, and kept no longer by that."""
        self._hook.remove()

    def _loaded(self, _: torch.optim.Optimizer) -> None:
        """Loading a state puts other tensors in its place, or none: of before the first step there are none."""
        self._make_state()
        self._places = self._moments()
        self._mark_state()
        if self._launch is not None:
            self._launch.move_to(self._places)

    def _make_state(self) -> None:
        for entry in self._entries():
            state = self._optimizer.state[entry.parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=entry.parameter.device)
                state["exp_avg"] = torch.zeros_like(entry.parameter)
                state["exp_avg_sq"] = torch.zeros_like(entry.parameter)

    def _mark_state(self) -> None:
        """Pieces with state are touched, whoever has written that."""
        for entry in self._entries():
            if entry.touched is not None:
                for moment in self._state(entry)[:2]:
                    whole, rest = moment.view(-1).split([moment.numel() // PIECE * PIECE, moment.numel() % PIECE])
                    entry.touched[: len(whole) // PIECE] |= whole.view(-1, PIECE).any(1)
                    entry.touched[len(whole) // PIECE :] |= rest.any()
        self._state_versions = self._versions()

    def _versions(self) -> list[int]:
        touched = [entry for entry in self._entries() if entry.touched is not None]
        return [moment._version for entry in touched for moment in self._state(entry)[:2]]

    def _entries(self) -> list[Entry]:
        return [entry for part in self._parts for entry in part]

    def _state(self, entry: Entry) -> Moments:
        exp_avg, exp_avg_sq, step = map(self._optimizer.state[entry.parameter].__getitem__, KEYS)
        return exp_avg, exp_avg_sq, step

    def _moments(self) -> list[Moments]:
        return [self._state(entry) for entry in self._entries()]

    def _groups(self) -> list[Group]:
        return [
            (group["lr"], group["weight_decay"], *group["betas"], group["eps"])
            for group in self._optimizer.param_groups
        ]


def _step(entry: Entry, exp_avg: Tensor, exp_avg_sq: Tensor, steps: Tensor, group: Group) -> None:
    rate, decay, beta1, beta2, eps = group
    step = int(steps)
    parameter = entry.parameter.detach()
    gradient = entry.gradient.to(parameter.dtype)
    parameter.mul_(1 - float(rate) * decay)
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (exp_avg_sq.sqrt() / math.sqrt(1 - beta2**step)).add_(eps)
    parameter.addcdiv_(exp_avg, root, value=-float(rate) / (1 - beta1**step))
    if entry.copy is not None:
        entry.copy.copy_(parameter)
    if entry.touched is not None:
        entry.gradient.zero_()
