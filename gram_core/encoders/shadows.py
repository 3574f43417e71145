"""A model's own parameters, in a narrower dtype while it runs, with places for their gradients that stay.

Casting weights for every pass, and their gradients back behind it, costs half as many bytes again as moving them. Here
modules find copies in the place of their parameters, which AdamW writes when it moves these
(`standing.StandingOptimization`). What a linear reads is narrow; everything else (norms, tables, what adapters compute
from a base weight) stays as wide as it is, and is found through an alias, so that its gradient comes here as well.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gram_core.encoders._packed_pass import REST, Room, flat_places
from gram_core.encoders._table_rows import TableRows, reading
from gram_core.encoders.standing import Standing
from gram_core.kernels.adamw import Entry


class Shadows(Standing):
    """Of all `learning` parameters of `root`, and of its frozen linears' weights.

    layers: the modules whose parameters move as soon as their gradients are there. gradient_dtype: of narrow
    parameters; None is `dtype`. room: makes the gradients' memory where they are summed with those of other processes,
    to float32 places. summed: whether passes add to their gradients. tables: modules of large ones, by their
    parameter's id, of which rows alone may be given gradients (`_table_rows.read_as_rows`).
    """

    def __init__(
        self,
        root: nn.Module,
        layers: Sequence[nn.Module],
        learning: list[Tensor],
        dtype: torch.dtype,
        gradient_dtype: torch.dtype | None = None,
        room: Room | None = None,
        summed: bool = False,
        tables: Mapping[int, Any] | None = None,
    ):
        self._narrow, frozen = _narrowed(root, {id(parameter) for parameter in learning})
        super().__init__([*learning, *frozen])
        self.sums_passes = summed
        self._dtype = dtype
        self._learning = learning
        self._shadow_of = {id(parameter): self._shadow(parameter) for parameter in self._parameters}
        alone = gradient_dtype is None and room is None and not summed
        tables = tables if alone and tables is not None else {}
        self._places = [
            (module._parameters, name, self._shadow_of[id(parameter)])
            for module in root.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and id(parameter) in self._shadow_of
        ]
        part_of: dict[int, int] = {}
        for number, layer in enumerate(layers):
            for parameter in layer.parameters():
                part_of.setdefault(id(parameter), number)
        self._parts = [
            [p for p in learning if part_of.get(id(p), REST) == part] for part in (*range(len(layers)), REST)
        ]
        self._rows = {
            id(p): TableRows(p, _telling(self, number)) for number, part in enumerate(self._parts) for p in part
            if id(p) in tables
        }  # fmt: skip
        self._rows_of = {module: self._rows[number] for number, module in tables.items() if number in self._rows}
        narrow_gradients = torch.float32 if summed else gradient_dtype or dtype
        self._own = [self._gradients(part, narrow_gradients, room) for part in self._parts]
        self._read = self._own if room is None else [self._gradients(part, torch.float32) for part in self._parts]
        self._waiting = {number: len(part) for number, part in enumerate(self._parts)}
        self._unmoved = False
        """Whether a backward pass has left gradients that nobody moved by."""
        for number, part in enumerate(self._parts):
            for learns in self._whole(part):
                self._shadow_of[id(learns)].register_post_accumulate_grad_hook(_telling(self, number))

    @property
    def layers(self) -> int:
        """Those that were given."""
        return len(self._parts) - 1

    def own(self, number: int) -> tuple[Tensor, ...]:
        """A part's gradients, narrow and wide."""
        return self._own[number][0]

    def read(self, number: int) -> tuple[Tensor, ...]:
        """The same."""
        return self._read[number][0]

    def entries(self, group_of: dict[int, int]) -> list[list[Entry]]:
        """All that learns; what is wide is its own copy."""
        found = [
            [
                Entry(p, gradient, self._shadow_of[id(p)].detach() if id(p) in self._narrow else None, group_of[id(p)])
                for p, gradient in zip(self._whole(part), gradients, strict=True)
            ]
            for part, (_, gradients) in zip(self._parts, self._read, strict=True)
        ]
        for entries, part in zip(found, self._parts, strict=True):
            read = [(p, self._rows[id(p)]) for p in part if id(p) in self._rows]
            entries += [Entry(p, rows.gradient, None, group_of[id(p)], rows.touched) for p, rows in read]
        return found

    def begin_step(self) -> None:
        """The same as of all; and what a backward pass that failed half-way has left is forgotten."""
        super().begin_step()
        if self._incomplete() is not None or self._unmoved or any(rows.pending for rows in self._rows.values()):
            self._waiting = {number: len(part) for number, part in enumerate(self._parts)}
            for shadow in self._shadow_of.values():
                shadow.grad = None
            for rows in self._rows.values():
                rows.clear()
            self._unmoved = False

    def check_complete(self) -> None:
        """Raises RuntimeError where a parameter had no gradient that had one when the shadows were made."""
        if (number := self._incomplete()) is not None:
            missing = self._waiting[number]
            raise RuntimeError(
                f"{missing} parameters of the encoder that learn had no gradient in a step, so that it can't move as a "
                "whole; the engine eager steps without them"
            )

    def _incomplete(self) -> int | None:
        """A part of whose gradients some have come and some have not."""
        return next((n for n, part in enumerate(self._parts) if 0 < self._waiting[n] < len(part)), None)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, modules find the copies in their parameters' place."""
        before = [parameters[name] for parameters, name, _ in self._places]
        for parameters, name, shadow in self._places:
            parameters[name] = shadow
        try:
            with reading(self._rows_of):
                yield
        finally:
            for (parameters, name, _), parameter in zip(self._places, before, strict=True):
                parameters[name] = parameter

    def _copy_values(self) -> None:
        narrow = [parameter for parameter in self._parameters if id(parameter) in self._narrow]
        if narrow:
            torch._foreach_copy_([self._shadow_of[id(p)].detach() for p in narrow], [p.detach() for p in narrow])

    def _shadow(self, parameter: Tensor) -> nn.Parameter:
        values: Tensor = parameter.detach()
        if id(parameter) in self._narrow:
            values = torch.empty_like(values, dtype=self._dtype)
        return nn.Parameter(values, requires_grad=any(parameter is p for p in self._learning))

    def _gradients(
        self, part: list[Tensor], narrow: torch.dtype, room: Room | None = None
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Wholes, and the place of each parameter's gradient in one of them."""
        wholes: list[Tensor] = []
        places: dict[int, Tensor] = {}
        for is_narrow, dtype in ((True, narrow), (False, torch.float32)):
            chosen = [p for p in self._whole(part) if (id(p) in self._narrow) == is_narrow]
            if chosen:
                whole, views = flat_places([tuple(p.shape) for p in chosen], dtype, chosen[0].device, room)
                wholes.append(whole)
                places |= {id(p): view for p, view in zip(chosen, views, strict=True)}
        return tuple(wholes), [places[id(p)] for p in self._whole(part)]

    def _whole(self, part: list[Tensor]) -> list[Tensor]:
        """Those of a part whose gradients autograd makes: of large tables only rows have one."""
        return [parameter for parameter in part if id(parameter) not in self._rows]

    def _arrived(self, number: int) -> None:
        """One of a part's gradients is there; with the last one, all go to their places."""
        self._waiting[number] -= 1
        if self._waiting[number]:
            return
        part = self._parts[number]
        self._waiting[number] = len(part)
        shadows = [self._shadow_of[id(parameter)] for parameter in self._whole(part)]
        gradients: Any = [shadow.grad for shadow in shadows]
        if shadows:
            with torch.no_grad():
                (torch._foreach_add_ if self.sums_passes else torch._foreach_copy_)(self._own[number][1], gradients)
        for shadow in shadows:
            shadow.grad = None
        for rows in (self._rows[id(parameter)] for parameter in part if id(parameter) in self._rows):
            rows.anchor.grad, rows.pending = None, False
        if self.finished is None:
            self._unmoved = True
        else:
            self.finished(REST if number == self.layers else number)


def _telling(shadows: Shadows, number: int) -> Callable[..., None]:
    """A hook that keeps nothing alive: what one of this kind refers to, Python's collector does not see."""
    told = weakref.ref(shadows)

    def arrived(*_: Tensor) -> None:
        if (found := told()) is not None:
            found._arrived(number)

    return arrived


def _narrowed(root: nn.Module, learning: set[int]) -> tuple[set[int], list[Tensor]]:
    """The ids of parameters that plain linears read and nobody else does, and the frozen ones of them."""
    readers = Counter(id(p) for module in root.modules() for p in module._parameters.values() if p is not None)
    linears = [module for module in root.modules() if type(module) is nn.Linear and not _computed_with(root, module)]
    read = [parameter for linear in linears for parameter in linear._parameters.values() if parameter is not None]
    counts = Counter(map(id, read))
    narrow = {id(p) for p in read if counts[id(p)] == readers[id(p)] and p.dtype == torch.float32}
    frozen = {id(p): p for p in read if id(p) in narrow and id(p) not in learning}
    return narrow, list(frozen.values())


def _computed_with(root: nn.Module, linear: nn.Linear) -> bool:
    """Whether more is done with a linear's weight than multiplying rows by it: adapters that scale its columns."""
    return any(getattr(module, "base_layer", None) is linear and _scales(module) for module in root.modules())


def _scales(adapter: nn.Module) -> bool:
    used = getattr(adapter, "use_dora", None) or getattr(adapter, "lora_variant", None)
    return bool(any(used.values()) if isinstance(used, dict) else used)
