"""A Hugging Face language model on packed texts: real tokens only, attention through tiles of several texts.

The passes are written out in `_packed_pass`; the weights are the model's own, read in the compute dtype.
T tokens packed, n texts, d width.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from gram_core.encoders._aside import Aside
from gram_core.encoders._packed_pass import Joined, Shape, backward, forward, gradients_to_come, in_order
from gram_core.encoders._weights import LAYOUTS, changed, joined_in, runs_again, weights_of
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed_pooling import pool, pool_backward
from gram_core.encoders.packing_encoder import PackingEncoder, needs_padding, refuses_dtype
from gram_core.encoders.standing import StandingWeights, SummedStandingWeights
from gram_core.kernels.attention import tile_for
from gram_core.packing import PackedTexts
from gram_core.protocols import Room


def unsupported(encoder: HuggingFaceEncoder) -> str | None:
    """Why this encoder can't run packed, in a few words; None where it can."""
    config = encoder.model.config
    if config.model_type not in LAYOUTS:
        return f"model type {config.model_type} has position or attention rules of its own"
    if (reason := changed(encoder.model)) is not None:
        return reason
    width = int(config.hidden_size) // int(config.num_attention_heads)
    if getattr(config, LAYOUTS[config.model_type].activation) != "gelu":
        return f"its activation is {getattr(config, LAYOUTS[config.model_type].activation)} and not gelu"
    if encoder.model.device.type == "cuda" and (
        reason := _no_kernels(encoder.model.device, encoder.model.dtype, width)
    ):
        return reason
    return needs_padding(encoder)


def refuses(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> str | None:
    """The same, for a training that computes in `amp_dtype`."""
    return refuses_dtype(amp_dtype) or unsupported(encoder)


def _no_kernels(device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
    if find_spec("triton") is None:
        return "its kernels need Triton, which is not installed"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "its kernels need a GPU that computes in bf16 and TF32 (Ampere or later)"
    if dtype == torch.float64:
        return "the tiles do not compute in float64"
    if head_width not in (16, 32, 64):  # wider ones exceed shared memory, in float32 at least
        return f"heads of width {head_width} do not fit the tiles"
    return None


class PackedEncoder(PackingEncoder):
    """BERT's family by a pass written out for it.

    Sums over tokens, norms' statistics, pooling and the encodings are wider than `compute_dtype`. Raises ValueError
    where `unsupported` gives a reason.
    """

    def __init__(self, encoder: HuggingFaceEncoder, compute_dtype: torch.dtype | None = None):
        reason = unsupported(encoder)
        if reason is not None:
            raise ValueError(f"the encoder can't run packed: {reason}")
        tile = tile_for(encoder.text_length, compute_dtype or encoder.model.dtype)
        super().__init__(encoder, compute_dtype, tile)
        self.weights = weights_of(encoder.model)
        self.shape = Shape(int(encoder.model.config.num_attention_heads), tile, encoder.text_length)
        self.aside = Aside(encoder.model.device)

    def recomputing(self) -> PackedEncoder:
        """The same encoder keeping each layer's input only from forward to backward, where the layer runs again."""
        shared = copy.copy(self)
        shared.shape = replace(self.shape, recomputes=True)
        return shared

    def read_again(self) -> None:
        """Follows modules that were replaced by others of their kind."""
        self.read_weights_again()

    def read_weights_again(self) -> None:
        """Follows parameters that others were put in place of."""
        self.weights = weights_of(self.encoder.model)

    def trained_parameters(self) -> list[Tensor]:
        """The model's that the pass reads, and the head's."""
        return self.weights.parameters() + self.encoder.head_parameters()

    def standing_parameters(self) -> list[Tensor] | None:
        """All that the pass reads; a head behind it learns by itself."""
        return None if self.encoder.head_parameters() else self.weights.parameters()

    def make_standing(self, gradient_dtype: torch.dtype | None, summed: bool, room: Room | None) -> StandingWeights:
        """The linears' weights."""
        if summed:
            return SummedStandingWeights(self.weights, self.compute_dtype, gradient_dtype)
        return StandingWeights(self.weights, self.compute_dtype, gradient_dtype, room)

    @property
    def _recomputes(self) -> bool:
        return bool(self.shape.recomputes)

    def encode(self, packed: PackedTexts) -> Tensor:
        """Encodings [n, d] of packed texts on the device, capacity rows and all; they have one backward pass."""
        inputs = self.weights.parameters() if self.standing is None else [self.standing.anchor]
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        return self.encoder.finish(_Encoding.apply(self, packed, keep, *inputs))

    def shape_now(self) -> Shape:
        """The shape of a pass by what learns now, and by what is kept of it now."""
        again = True if self.shape.recomputes is True else runs_again(self.encoder.model)
        return replace(self.shape, recomputes=again, first=self.weights.first_learning())

    def joined(self) -> list[Joined]:
        """The linears' weights in the compute dtype."""
        if self.standing is not None:
            self.standing.refresh()
            return self.standing.joined
        return joined_in(self.compute_dtype, self.weights)


class _Encoding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoder: PackedEncoder, packed: PackedTexts, keep: bool, *inputs: Tensor) -> Tensor:
        ctx.encoder, ctx.joined, ctx.shape = encoder, encoder.joined(), encoder.shape_now()
        with torch.autocast(packed.tokens.device.type, enabled=False):
            states, ctx.kept = forward(packed, encoder.weights, ctx.joined, ctx.shape, keep=keep)
            return pool(encoder.encoder.pooling, states, packed).to(encoder.encoder.model.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        encoder, kept, ctx.kept = ctx.encoder, ctx.kept, None
        if kept is None:
            raise RuntimeError("packed encodings have one backward pass, and this is the second")
        standing = encoder.standing
        into = gradients_to_come(encoder.weights) if standing is None else standing.gradients
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            rows = pool_backward(encoder.encoder.pooling, gradient, kept.packed, encoder.compute_dtype)
            finished, behind = (None, 0) if standing is None else (standing.finished, standing.behind)
            backward(rows, kept, encoder.weights, ctx.joined, ctx.shape, into, encoder.aside, finished, behind)
            if standing is not None:
                return None, None, None, None
            return None, None, None, *_in_their_dtype(in_order(into, encoder.weights), encoder.weights.parameters())


def _in_their_dtype(gradients: list[Tensor | None], parameters: list[Tensor]) -> list[Tensor | None]:
    """The gradient of each parameter that learns, in its dtype; cast in few launches."""
    learned = [g if p.requires_grad else None for g, p in zip(gradients, parameters, strict=True)]
    cast = [
        g if g is None or g.dtype == p.dtype else torch.empty_like(p, requires_grad=False)
        for g, p in zip(learned, parameters, strict=True)
    ]
    pairs = [
        (to, of) for to, of in zip(cast, learned, strict=True) if to is not None and of is not None and to is not of
    ]
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [of for _, of in pairs])
    return cast
