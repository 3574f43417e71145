"""Does a pass compute what the model's own forward pass does? Asked of a few texts: encodings, and a gradient.

n texts, d width. What is allowed is rounding: of the dtype computed in, or, where autocast computes in a narrower one,
as much as the model's own pass under autocast differs from its pass without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gram_core.batch import ItemTable, Texts
from gram_core.encoders._traces import leaving_no_trace
from gram_core.protocols import ItemSource

Encode = Callable[[Texts], Tensor]
TEXTS = 4
ROUNDING: Mapping[torch.dtype, float] = {torch.float64: 1e-9, torch.float32: 2e-4}
"""The most that encodings and gradients may differ, relatively, by the dtype computed in; packed and padded sums differ
by 1e-15 and 1e-6. Narrower dtypes err more."""
NARROW = 0.15
TF32 = 2e-2
"""Of float32 on a GPU, whose kernels may multiply in TF32."""
MORE_ROUNDINGS = 20.0
"""How many times as far as autocast a pass may be from float32: it stores in the narrow dtype what autocast stores in
float32, which was seen to cost 5.2 times the error; a wrong pass is off by much more than the few per mille of this."""
SMALL = 1e-2
"""A parameter's gradient is measured by its own norm, but not by less than this share of the whole gradient's: some
have none but rounding, as the biases of attention's keys."""


@dataclass(frozen=True)
class Found:
    """Encodings [n, d] of the texts, and the gradient of one of them for each parameter that has one."""

    encodings: Tensor
    gradients: Mapping[str, Tensor]

    def distances(self, other: Found) -> dict[str, float]:
        """Between encodings, by the name "", and between gradients."""
        pairs = {"": (self.encodings, other.encodings)}
        pairs |= {name: (gradient, other.gradients[name]) for name, gradient in self.gradients.items()}
        return {name: _norm(a - b) for name, (a, b) in pairs.items()}


def few_texts(table: ItemSource, text_length: int, pad_token_id: int | None = None) -> Texts | None:
    """Texts of the table of lengths that differ, the shortest and the longest that fit among them; None where none do.

    With the first one in which padding's id occurs, if there is one: some families count positions by it. Texts of no
    tokens are left out: their encodings mean nothing.
    """
    fitting = torch.nonzero((table.lengths > 0) & (table.lengths <= text_length)).flatten()
    if not len(fitting):
        return None
    by_length = fitting[torch.argsort(table.lengths[fitting], stable=True)]
    places = torch.linspace(0, len(by_length) - 1, min(TEXTS, len(by_length))).round().long().unique()
    texts: Texts = table.take(torch.cat([by_length[places], _holding(table, pad_token_id, fitting)]))
    return texts


def _holding(table: ItemSource, token: int | None, items: Tensor) -> Tensor:
    """The first of `items` in which `token` occurs [1], or none [0]."""
    if token is None or not isinstance(table, ItemTable):
        return items[:0]
    held = torch.searchsorted(table.offsets, torch.nonzero(table.tokens == token).flatten(), right=True) - 1
    return held[torch.isin(held, items)][:1]


def differs(
    tried: Encode,
    own: Encode,
    module: nn.Module,
    texts: Texts,
    amp_dtype: torch.dtype | None = None,
    rounding: float = 0.0,
) -> str | None:
    """What `tried` makes of texts otherwise than `own`, in a few words; None: nothing.

    own: the encoder's own pass, of `module`, whose parameters both read. amp_dtype: of the autocast that both run in.
    rounding: how much is allowed for it at least, of a module some parts of which compute in a narrower dtype.
    Leaves no gradient, no random number drawn and no state of a part moved behind.
    """
    with leaving_no_trace(module):
        expected, allowed = _expected(own, module, texts, amp_dtype, rounding)
        try:
            found = _found(tried, module, texts, amp_dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of whatever kind: the pass was not made for this model
            return f"its pass fails on this model ({type(error).__name__}: {error})".partition("\n")[0]
        if missing := sorted(found.gradients.keys() ^ expected.gradients.keys()):
            which = "no gradient" if missing[0] in expected.gradients else "a gradient that it should not have"
            return f"{missing[0]} gets {which}"
        distances = found.distances(expected)
        if not distances[""] <= allowed[""]:
            return f"its encodings differ from the model's own by {_share(distances[''], expected.encodings)}"
        for name, distance in distances.items():
            if not distance <= allowed[name]:
                off = _share(distance, expected.gradients[name])
                return f"the gradient of {name} differs from the model's own by {off}"
    return None


def _expected(
    own: Encode, module: nn.Module, texts: Texts, amp_dtype: torch.dtype | None, rounding: float
) -> tuple[Found, dict[str, float]]:
    """What the model's own pass makes of the texts without autocast, and how far from it others may be."""
    exact = _found(own, module, texts, None)
    norms = {"": _norm(exact.encodings)} | {name: _norm(gradient) for name, gradient in exact.gradients.items()}
    whole = sum(norm**2 for name, norm in norms.items() if name) ** 0.5
    scales = {name: max(norm, SMALL * whole) if name else norm for name, norm in norms.items()}
    dtype = exact.encodings.dtype
    on_gpu = dtype == torch.float32 and exact.encodings.is_cuda
    rounding = max(rounding, TF32 if on_gpu else ROUNDING.get(dtype, NARROW))
    tiny = 1e3 * torch.finfo(dtype).tiny
    if amp_dtype is None or amp_dtype == dtype:
        return exact, {name: rounding * scale + tiny for name, scale in scales.items()}
    errors = _found(own, module, texts, amp_dtype).distances(exact)
    usual = sum(error**2 for name, error in errors.items() if name) ** 0.5 / whole if whole else 0.0
    allowed = {name: max(errors[name], usual * scales[name] if name else 0.0) for name in scales}
    return exact, {name: max(MORE_ROUNDINGS * error, rounding * scales[name]) + tiny for name, error in allowed.items()}


def _found(encode: Encode, module: nn.Module, texts: Texts, amp_dtype: torch.dtype | None) -> Found:
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    kind = next(module.parameters()).device.type
    with torch.autocast(kind, amp_dtype or torch.bfloat16, enabled=amp_dtype is not None):
        encodings = encode(texts)
    chosen = encodings[len(texts) // 2]
    if not chosen.requires_grad:
        return Found(encodings.detach(), {})
    weights = torch.cos(torch.arange(len(chosen), dtype=torch.float64)).to(chosen.device, chosen.dtype)
    found = torch.autograd.grad((chosen * weights).sum(), list(named.values()), allow_unused=True)
    return Found(
        encodings.detach(),
        {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None},
    )


def _norm(values: Tensor) -> float:
    return float(values.to(torch.promote_types(values.dtype, torch.float32)).norm())


def _share(distance: float, of: Tensor) -> str:
    norm = _norm(of)
    return f"{distance / norm:.1e} of their size" if norm else f"{distance:.1e}"
