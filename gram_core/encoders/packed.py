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
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders._aside import Aside
from gram_core.encoders._packed_pass import Joined, Shape, backward, forward, gradients_to_come, in_order
from gram_core.encoders._weights import LAYOUTS, bypassed, changed, joined_in, runs_again, weights_of
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import ClsPooling, LastPooling, MeanPooling
from gram_core.encoders.standing import StandingWeights
from gram_core.encoders.watch import Watch
from gram_core.kernels.attention import tile_for
from gram_core.kernels.segments import segment_mean, spread_means
from gram_core.packing import PackedTexts, pack


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
    if type(encoder.pooling) not in (MeanPooling, ClsPooling, LastPooling):
        return "its pooling reads padded rows"
    for what, module in (("the encoder", encoder), ("its pooling", encoder.pooling)):
        if (reason := bypassed(module)) is not None:
            return f"{what} has {reason}"
    if any(module.p > 0 and module.training for module in encoder.model.modules() if isinstance(module, nn.Dropout)):
        return "its dropout acts, and inside attention that needs padded rows; set it to 0 for packed texts"
    return None


def refuses(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> str | None:
    """The same, for a training that computes in `amp_dtype`."""
    if amp_dtype not in (None, torch.bfloat16):
        name = str(amp_dtype).removeprefix("torch.")
        return f"packed texts keep their residual sums in the compute dtype, for which {name} is not made"
    return unsupported(encoder)


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


class PackedEncoder(nn.Module):
    """The same encodings as `encoder` (whose parameters it shares), without computing padding.

    compute_dtype: what the layers compute in; sums over tokens, norms' statistics, pooling and the encodings are
    wider. Raises ValueError where `unsupported` gives a reason.
    """

    def __init__(self, encoder: HuggingFaceEncoder, compute_dtype: torch.dtype | None = None):
        super().__init__()
        reason = unsupported(encoder)
        if reason is not None:
            raise ValueError(f"the encoder can't run packed: {reason}")
        self.encoder = encoder
        self.width = encoder.width
        self.compute_dtype = compute_dtype or encoder.model.dtype
        self.weights = weights_of(encoder.model)
        heads, tile = int(encoder.model.config.num_attention_heads), tile_for(encoder.text_length, self.compute_dtype)
        self.shape = Shape(heads, tile, encoder.text_length)
        self.aside = Aside(encoder.model.device)
        self.standing: StandingWeights | None = None
        """Where set, the passes read these weights and leave their gradients there."""
        self.watch: Watch | None = None
        """Where set, it says whether the pass still computes what the model does; where not, texts are padded."""
        self._read_at = 0

    def recomputing(self) -> PackedEncoder:
        """The same encoder keeping each layer's input only from forward to backward, where the layer runs again."""
        shared = copy.copy(self)
        shared.shape = replace(self.shape, recomputes=True)
        return shared

    def holds(self) -> bool:
        """Whether the pass computes what the model does, as that is now; proved again where it has changed."""
        if self.watch is None:
            return True
        holds = self.watch.holds()
        if holds and self._read_at != self.watch.changes:  # modules may have been replaced by others of their kind
            self.weights, self._read_at = weights_of(self.encoder.model), self.watch.changes
        return holds

    @property
    def padded(self) -> BucketedEncoder:
        """What encodes where the pass does not hold."""
        return BucketedEncoder(self.encoder)

    @property
    def draws_random_numbers(self) -> bool:
        """Dropout does, for which texts are padded."""
        return not self.holds()

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Real tokens, where nothing else is computed."""
        return lengths if self.holds() else self.padded.computed_tokens(lengths)

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d] of texts on the host; on a CPU by the padded model where no text has any padding."""
        if not self.holds():
            return self.padded(texts)
        if self._without_padding(texts.lengths):
            return self.encoder.encode(texts, padded_to=None)
        if self.standing is not None:
            self.standing.copy()
        return self.encode(self.pack(texts).to(self.encoder.model.device))

    def alone(self) -> PackedEncoder:
        """The same pass on the parameters as they are, without standing weights and unwatched."""
        shared = copy.copy(self)
        shared.standing = shared.watch = None
        shared.weights = weights_of(self.encoder.model)
        return shared

    def _without_padding(self, lengths: Tensor) -> bool:
        """Whether the padded model computes nothing else, which is a little faster on a CPU."""
        on_cpu = self.encoder.model.device.type == "cpu"
        return on_cpu and len(lengths) > 0 and not self.shape.recomputes and bool((lengths == lengths[0]).all())

    def pack(self, texts: Texts, token_capacity: int | None = None, text_capacity: int | None = None) -> PackedTexts:
        """Texts as `encode` reads them, on the host; raises ValueError for a text longer than text_length."""
        longest = int(texts.lengths.max()) if len(texts) else 0
        if longest > self.encoder.text_length:
            raise ValueError(f"a text has {longest} tokens where text_length is {self.encoder.text_length}")
        return pack(texts, self.shape.block, self.encoder.pad_token_id, token_capacity, text_capacity)

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
            return _pool(encoder, states, packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        encoder, kept, ctx.kept = ctx.encoder, ctx.kept, None
        if kept is None:
            raise RuntimeError("packed encodings have one backward pass, and this is the second")
        standing = encoder.standing
        into = gradients_to_come(encoder.weights) if standing is None else standing.gradients
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            rows = _pool_backward(encoder, gradient, kept.packed)
            finished, behind = (None, 0) if standing is None else (standing.finished, standing.behind)
            backward(rows, kept, encoder.weights, ctx.joined, ctx.shape, into, encoder.aside, finished, behind)
            if standing is not None:
                return None, None, None, None
            return None, None, None, *_in_their_dtype(in_order(into, encoder.weights), encoder.weights.parameters())


def _pool(encoder: PackedEncoder, states: Tensor, packed: PackedTexts) -> Tensor:
    if not isinstance(encoder.encoder.pooling, MeanPooling):
        pooled = states[_chosen(encoder, packed)]
    else:
        pooled = segment_mean(states, packed.offsets)
    return pooled.to(encoder.encoder.model.dtype)


def _pool_backward(encoder: PackedEncoder, gradient: Tensor, packed: PackedTexts) -> Tensor:
    """The gradient of the hidden states [T, d], in the compute dtype."""
    if isinstance(encoder.encoder.pooling, MeanPooling):
        return spread_means(gradient, packed.offsets, packed.text_of, encoder.compute_dtype)
    rows = gradient.new_zeros(len(packed.tokens), gradient.shape[1], dtype=encoder.compute_dtype)
    starts, stops = packed.offsets[:-1], packed.offsets[1:]
    real = (starts < stops)[:, None]  # a text of no tokens reads a row that is another's, or nobody's
    chosen = _chosen(encoder, packed)
    return rows.index_add_(0, chosen, torch.where(real, gradient, 0.0).to(rows.dtype))


def _chosen(encoder: PackedEncoder, packed: PackedTexts) -> Tensor:
    """The row of each text's first or last token, int64 [n]; of a text of no tokens, any row."""
    last = isinstance(encoder.encoder.pooling, LastPooling)
    rows = packed.offsets[1:] - 1 if last else packed.offsets[:-1]
    return rows.clamp(0, len(packed.tokens) - 1).long()


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
