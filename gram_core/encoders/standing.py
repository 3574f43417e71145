"""Weights that stand in the compute dtype from step to step, instead of being cast for every pass.

An encoder that reads them writes its gradients to places of their own, in the compute dtype, which
`StandingOptimization` reads; no parameter's `.grad` is used. A backward pass overwrites the gradients of the one
before: there is one per move, but for `SummedStandingWeights`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gram_core.encoders._lent import Lending
from gram_core.encoders._packed_pass import REST, Gradients, Room, in_order, standing_gradients
from gram_core.encoders._weights import Weights, copies, copy_into
from gram_core.kernels.adamw import Entry, FusedAdamW
from gram_core.phases import phase
from gram_core.training import Optimization, parameters_of

BEHIND = 2
"""Layers whose weights' gradients are computed while the tables' are summed over processes: on two H200, 23 million
numbers of a table take 0.33 ms, and a layer's products 0.3 ms for 16k tokens."""


class Copied(ABC):
    """Parameters of which copies stand elsewhere, in another dtype: when are those to be made again?

    `_copy_values` makes them.
    """

    def __init__(self, parameters: list[Tensor]):
        self._parameters = parameters
        self._versions: list[int] = []
        self._lending = Lending(parameters)
        self._doubted = False

    def refresh(self) -> None:
        """Copies the parameters where somebody else has changed one in place; `StandingOptimization` has not."""
        if self._versions_now() != self._versions:
            self._copy()

    def begin_step(self) -> None:
        """The same, and where parameters may have been changed unseen: somebody asked for their data, or encoded in
        between, as who swaps averaged weights in, scores and swaps them out again does."""
        if self._lending.taken() or self._doubted:
            self._copy()
        self._doubted = False
        self.refresh()

    def copy(self) -> None:
        """Copies the parameters, whoever has changed them: for who encodes outside of a step. Takes as long as a few
        passes over memory."""
        self._copy()
        self._doubted = True

    def moved(self) -> None:
        """Says that a step moved parameters and copies alike, which kernels and graphs do unseen: whoever else reads
        the parameters sees that they changed, and these copies are not made again."""
        torch.autograd.graph.increment_version(self._parameters)
        self._versions = self._versions_now()

    def _copy(self) -> None:
        with torch.no_grad():
            self._copy_values()
        self._versions = self._versions_now()

    @abstractmethod
    def _copy_values(self) -> None:
        """Copies every parameter."""

    def _versions_now(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]


class Standing(Copied):
    """Copies that passes read, and places for their gradients, in parts: each layer's, and REST for all others.

    finished: called with each part whose gradients are there and whose weights are read no more.
    behind: see `_packed_pass.backward`. sums_passes: whether the gradients are those of several passes, summed.
    """

    sums_passes = False

    def __init__(self, parameters: list[Tensor]):
        super().__init__(parameters)
        self.finished: Callable[[int], None] | None = None
        self.behind = 0

    @property
    @abstractmethod
    def layers(self) -> int:
        """Parts but for REST."""

    @abstractmethod
    def own(self, number: int) -> tuple[Tensor, ...]:
        """Where passes leave a part's gradients."""

    @abstractmethod
    def read(self, number: int) -> tuple[Tensor, ...]:
        """Where moves read them: the same, or where sums over processes come."""

    @abstractmethod
    def entries(self, group_of: dict[int, int]) -> list[list[Entry]]:
        """All parameters with gradient and copy, part by part, REST last. group_of: the optimizer's group of each
        parameter's id."""

    def clear(self) -> None:
        """Begins a sum of passes."""
        torch._foreach_zero_([whole for number in (*range(self.layers), REST) for whole in self.read(number)])

    def add(self) -> None:
        """Ends a pass that is summed."""

    def check_complete(self) -> None:
        """Raises RuntimeError where a backward pass left some gradients of a part and not all."""


class StandingWeights(Standing):
    """The linears of `weights` in `dtype`, and room for all gradients.

    gradient_dtype: of the linears' gradients; None is `dtype`. room: makes the gradients' memory where that is not
    moved by itself but summed with that of other processes, to float32 places of their own.
    """

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        gradient_dtype: torch.dtype | None = None,
        room: Room | None = None,
    ):
        super().__init__(weights.parameters())
        self._weights = weights
        self.joined = copies(weights, dtype)
        self.gradients = standing_gradients(weights, gradient_dtype or dtype, room)
        self._summed = None if room is None else standing_gradients(weights, torch.float32)
        self.anchor = torch.zeros((), requires_grad=True, device=weights.embedding.words.device)
        """Stands for all weights in autograd's graph."""

    def _copy_values(self) -> None:
        copy_into(self.joined, self._weights)

    @property
    def moved_by(self) -> Gradients:
        """The gradients that a move reads."""
        return self.gradients if self._summed is None else self._summed

    @property
    def layers(self) -> int:
        """The model's."""
        return len(self._weights.layers)

    def own(self, number: int) -> tuple[Tensor, ...]:
        """A layer's matrices, or all else."""
        return self.gradients.whole(number)

    def read(self, number: int) -> tuple[Tensor, ...]:
        """The same."""
        return self.moved_by.whole(number)

    def entries(self, group_of: dict[int, int]) -> list[list[Entry]]:
        """The matrices of each layer, then everything else."""
        copied: dict[int, Tensor] = {}
        layer_of: dict[int, int] = {}
        for number, (linear, joined) in enumerate(zip(self._weights.linears(), self.joined, strict=True)):
            layer_of |= {id(weight): number // 4 for weight in linear.weights}
            for whole, parts in zip(joined, linear.sources(), strict=True):
                pieces = whole.split([len(part) for part in parts])
                copied |= {id(part): piece for part, piece in zip(parts, pieces, strict=True)}
        gradients = in_order(self.moved_by, self._weights)
        found: list[list[Entry]] = [[] for _ in range(len(self._weights.layers) + 1)]
        for parameter, gradient in zip(self._weights.parameters(), gradients, strict=True):
            assert gradient is not None, "there is room for all of them"
            entry = Entry(parameter, gradient, copied.get(id(parameter)), group_of[id(parameter)])
            found[layer_of.get(id(parameter), -1)].append(entry)
        return found


class SummedStandingWeights(StandingWeights):
    """Standing weights that move by what several passes' gradients sum to, in float32; `clear`, then passes with an
    `add` behind each, then the move.

    A layer's matrices are added beside the pass, so that layers alike share the places of their gradients by turns:
    two, for a layer may write while that of the one above is still read. To the words' sum every pass adds by itself.
    """

    sums_passes = True

    def __init__(self, weights: Weights, dtype: torch.dtype, gradient_dtype: torch.dtype | None = None):
        super().__init__(weights, dtype, gradient_dtype)
        self.sums = standing_gradients(weights, torch.float32)
        self.finished = self._add_layer
        matrices = self.gradients.matrices
        shapes = [linear.shape for linear in weights.linears()]
        for number in range(8, len(matrices)):
            if shapes[number] == shapes[number - 8]:
                matrices[number] = matrices[number - 8]
        tables, sums = self.gradients.tables, self.sums.tables
        assert tables is not None, "standing gradients have all"
        assert sums is not None, "the same"
        self.gradients.tables = (sums[0], *tables[1:])
        self.gradients.whole_layers = self.gradients.whole_rest = ()  # of which only parts are used
        self.gradients.adds_words = True
        self.clear()

    @property
    def moved_by(self) -> Gradients:
        """The sums."""
        return self.sums

    def own(self, number: int) -> tuple[Tensor, ...]:
        """The sums."""
        return self.read(number)

    def add(self) -> None:
        """Adds the gradients of the pass that has just run, but for those that it has added itself."""
        torch._foreach_add_(self.sums.of_no_layer()[1:], self.gradients.of_no_layer()[1:])

    def _add_layer(self, number: int) -> None:
        if number == REST:
            return  # `add` does
        torch._foreach_add_(self.sums.of_layer(number), self.gradients.of_layer(number))


@dataclass
class StandingOptimization(Optimization):
    """An optimization whose encoder has standing weights: each layer's matrices move while the pass goes on below it.

    Every backward pass is therefore a step, which `move` completes; where passes are summed, `move` moves everything.
    Where processes train together, each part moves once its gradients are summed over them, beside the pass.
    """

    standing: Standing | None = None
    _update: FusedAdamW = field(init=False)

    def __post_init__(self) -> None:
        optimizer = self.encoder_optimizer
        assert isinstance(optimizer, torch.optim.AdamW), "`can_stand` was asked"
        assert self.standing is not None, "an optimization without is `Optimization`"
        group_of = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        entries = self.standing.entries(group_of)
        self._update = FusedAdamW(optimizer, entries)
        self._sums_passes = self.standing.sums_passes
        self._cf_has_moved = False
        if not self._sums_passes:
            self.standing.finished = self._finish
            self.standing.behind = BEHIND if self.joint is not None else 0

    def move(self, *, encoder: bool = True, cf: bool = True) -> None:
        """As `Optimization.move`, the encoder's parameters by one kernel a part."""
        if cf and not self._cf_has_moved:
            super().move(encoder=False)
        self._cf_has_moved = False
        assert self.standing is not None
        if encoder:
            self.standing.check_complete()
        if encoder and self._sums_passes:
            for part in range(self.standing.layers):
                self._finish(part)
            self._finish(REST)
        if self.joint is not None:
            self.joint.join()

    def cf_gradients_are_there(self) -> None:
        """Sums the CF module's gradients and moves it beside the encoder's backward pass; called before that."""
        if self.joint is None or self.cf_optimizer is None:
            return
        optimizer = self.cf_optimizer

        def move() -> None:
            with phase("optimizer"):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        self.joint.reduce_aside(parameters_of(optimizer), move)
        self._cf_has_moved = True

    def advance(self, *, encoder: bool = True, cf: bool = True) -> None:
        """As `Optimization.advance`, after a step that was replayed or run."""
        super().advance(encoder=encoder, cf=cf)
        if encoder:
            assert self.standing is not None
            self.standing.moved()

    def _finish(self, number: int) -> None:
        """A part's gradients are there and its weights are read no more; number: a layer's, or REST."""

        def move() -> None:
            with phase("optimizer"):
                self._update.step(part=number)

        if self.joint is None:
            move()
            return
        assert self.standing is not None
        own, read = self.standing.own(number), self.standing.read(number)
        if all(of is to for of, to in zip(own, read, strict=True)):
            self.joint.sum_aside(read, move)
        else:
            self.joint.sum_aside(own, move, into=read)

    def refresh(self) -> None:
        """Follows what was changed from outside since the last step: parameters and settings."""
        assert self.standing is not None
        self.standing.begin_step()
        self._update.refresh()

    def release(self) -> None:
        """Lets go of the optimizer: another one takes this one's place."""
        self._update.release()


def can_stand(optimization: Optimization, parameters: list[Tensor]) -> bool:
    """Whether `StandingOptimization` moves as this optimization does: plain AdamW of float32 on all of `parameters`,
    none of them frozen.

    Clipping needs every gradient before any moves.
    """
    optimizer = optimization.encoder_optimizer
    if type(optimization) is not Optimization or optimization.max_grad_norm is not None:
        return False
    if type(optimizer) is not torch.optim.AdamW or optimizer.defaults.get("decoupled_weight_decay") is False:
        return False
    groups = optimizer.param_groups
    if any(group["amsgrad"] or group["maximize"] or group["differentiable"] for group in groups):
        return False
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        return False  # what is shared has one gradient, the sum of those of its readers
    moved = {id(parameter) for group in groups for parameter in group["params"]}
    return all(
        id(p) in moved and p.requires_grad and p.dtype == torch.float32 and p.is_contiguous() and not is_watched(p)
        for p in parameters
    )


def is_watched(parameter: Any) -> bool:
    """Whether somebody's hooks wait for its gradient, which standing weights do not leave with it."""
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))
