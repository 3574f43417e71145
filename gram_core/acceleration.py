"""A Hugging Face encoder with the engine's passes in anyone's loop: real tokens only, in few launches.

    encoder = accelerated(model, token_ids, pooling="mean")
    history, candidates = encode(encoder, batch["history"], batch["candidates"])

With `replayed` forward and backward are captured apart. Loss, backward, clipping, scaling and stepping stay the
caller's, and so does autocast, whose dtype at the call is the one that is computed in.
n items of a call, d width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from gram_core.batch import ItemTable, Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.pooling import Pooling
from gram_core.encoders.watch import ModuleState
from gram_core.engines._captured_passes import CapturedPasses
from gram_core.engines._tiers import FallBack, Ran, choose
from gram_core.protocols import ContentEncoder


def accelerated(
    module: PreTrainedModel | HuggingFaceEncoder,
    items: ItemTable | Mapping[str, Any] | Sequence[Sequence[int]],
    *,
    pooling: Pooling | Literal["auto"] = "auto",
    pad_token_id: int | None = None,
    text_length: int | None = None,
    replayed: bool = False,
) -> Accelerated:
    """`module` on texts `items` as an encoder of item ids, for `encode`, `encoded` and `MultiStepEncodings`.

    items: a list of token ids for each item, special tokens included; a tokenizer's output, of which padding is left
    out where it has an `attention_mask`; or an `ItemTable`. The following are for a model, and part of a
    `HuggingFaceEncoder` already:
    pooling: see `HuggingFaceEncoder`. pad_token_id: None takes the model's. text_length: the most tokens of a text;
    None takes the longest of `items`.
    replayed: whether passes are replayed from CUDA graphs, a pair for each size, instead of launched kernel by kernel.
    New, and off until it has been measured; without effect on a processor.
    Raises TypeError for a module that is no model of transformers, ValueError where its texts can't be packed, with the
    reason; what hangs on the dtype of autocast is said by the first call.
    """
    if isinstance(module, DistributedDataParallel):
        raise TypeError("give accelerated the module inside, and wrap the module that calls encode")
    table = items if isinstance(items, ItemTable) else ItemTable.from_lists(_token_ids(items))
    if isinstance(module, PreTrainedModel):
        if text_length is not None and text_length < 1:
            raise ValueError(f"text_length must be at least 1, not {text_length}")
        embeddings: Any = module.get_input_embeddings()
        rows: int = embeddings.num_embeddings
        if int(table.tokens.min()) < 0 or int(table.tokens.max()) >= rows:
            raise ValueError(f"token ids must be from 0 to {rows - 1}, the model's vocabulary; some of `items` are not")
        pad = module.config.pad_token_id if pad_token_id is None else pad_token_id
        longest = int(table.lengths.max()) if text_length is None else text_length
        module = HuggingFaceEncoder(module, pad_token_id=pad or 0, text_length=longest, pooling=pooling)
    elif not isinstance(module, HuggingFaceEncoder):
        raise TypeError(
            f"accelerated takes a model of transformers or a HuggingFaceEncoder, not {type(module).__name__}"
        )
    made = Accelerated(module, table, replayed)
    made.prepare()
    return made


class Accelerated(nn.Module):
    """Item ids int64 [n] -> encodings [n, d]; its parameters are the encoder's. See `accelerated`.

    Ids that lie on a GPU are waited for: leave them on the host.
    """

    def __init__(self, encoder: HuggingFaceEncoder, table: ItemTable, replayed: bool = False):
        super().__init__()
        self.encoder = encoder
        self.replayed = replayed
        self._made = _Made(table)

    def prepare(self) -> None:
        """Chooses the pass for the dtype that autocast computes in now; raises ValueError where there is none."""
        self._passes()

    @property
    def tier(self) -> str:
        """How it runs for the present dtype: "packed", "general"; "padded" where the model was changed since."""
        return self._passes()[1].tier

    def forward(self, ids: Tensor) -> Tensor:
        """Encodings [n, d] of the items `ids` int64 [n], in their order; differentiable, with `replayed` once."""
        return self._encoded(ids, again=False)

    def recomputed(self, ids: Tensor) -> Tensor:
        """The same keeping no activation: the backward pass encodes again."""
        return self._encoded(ids, again=True)

    def _encoded(self, ids: Tensor, again: bool) -> Tensor:
        if ids.dim() != 1 or ids.is_floating_point():
            raise ValueError(f"ids must be integers [n], not {ids.dtype} {list(ids.shape)}")
        if not len(ids):
            return self._encoded(torch.zeros(1, dtype=torch.int64), again)[:0]
        ids = ids.cpu().long()
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= len(self._made.table):
            raise ValueError(
                f"ids must be from 0 to {len(self._made.table) - 1}; there are some from {least} to {most}"
            )
        passes, _ = self._passes()
        texts = self._made.table.texts(ids)
        encoder = passes.encoder if isinstance(passes, CapturedPasses) else passes
        holds = encoder.holds()
        state = ModuleState(self.encoder) if encoder.watch is None else encoder.watch.state
        learning = [parameter for parameter in state.parameters if parameter.requires_grad] if again else []
        found: Tensor
        if isinstance(passes, CapturedPasses) and holds:
            found = passes(texts, again=again)
        elif learning and torch.is_grad_enabled():
            found = _EncodedAgain.apply(encoder, texts, self.encoder, *learning)
        else:
            found = encoder(texts)
        if found.requires_grad:
            found.register_hook(partial(_check, _condition(state), state, again))
        return found

    def _passes(self) -> tuple[CapturedPasses | PackingEncoder, Ran]:
        device = self.encoder.model.device
        enabled = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if enabled else None
        key = (device, self.encoder.model.dtype, dtype)
        if key not in self._made.passes:
            self._made.passes[key] = self._build(device, dtype)
        return self._made.passes[key]

    def _build(self, device: torch.device, dtype: torch.dtype | None) -> tuple[CapturedPasses | PackingEncoder, Ran]:
        with warnings.catch_warnings(), torch.autocast(device.type, enabled=False):  # the proof has a dtype of its own
            warnings.simplefilter("ignore", FallBack)
            encoder, ran = choose(_Wanted(self.encoder, self._made.table, dtype))
        if not isinstance(encoder, PackingEncoder):
            raise ValueError(f"this encoder can't be accelerated: {ran.why_no_faster}")
        replays = self.replayed and device.type == "cuda"
        return (CapturedPasses(encoder, device) if replays else encoder), ran


class _EncodedAgain(torch.autograd.Function):
    """Keeps nothing from the forward pass, which the backward pass repeats in the same autocast."""

    @staticmethod
    def forward(
        ctx: Any, encoder: PackingEncoder, texts: Texts, module: HuggingFaceEncoder, *learning: Tensor
    ) -> Tensor:
        kind = module.model.device.type
        ctx.again, ctx.learning = (encoder, texts), learning
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return encoder(texts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        encoder, texts = ctx.again
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            encodings = encoder(texts)
        return None, None, None, *torch.autograd.grad(encodings, ctx.learning, gradient, allow_unused=True)


def _condition(state: ModuleState) -> tuple[list[int], list[bool], list[bool]]:
    """What a backward pass is bound to: counts of in-place changes of weights, which learn, which parts train."""
    return (
        [parameter._version for parameter in state.parameters],
        [parameter.requires_grad for parameter in state.parameters],
        [part.training for part in state.modules],
    )


def _check(before: tuple[list[int], list[bool], list[bool]], state: ModuleState, again: bool, gradient: Tensor) -> None:
    """Raises RuntimeError where the backward pass that begins would be another model's, or has to be differentiated.

    again: the backward pass runs the model once more, whose parts may have been replaced as well.
    """
    whats = ("weights", "frozen parameters", "training mode")
    for then, now, what in zip(before, _condition(state), whats, strict=True):
        if then != now:
            raise RuntimeError(
                f"the encoder's {what} changed between encode and the backward pass: call backward before the "
                "optimizer's step, freezing, train() or eval()"
            )
    if again and not state.is_now():
        raise RuntimeError("the encoder's modules changed between encode and the backward pass, which encodes again")
    if torch.is_grad_enabled():
        raise RuntimeError("an accelerated encoder has no second derivatives: use encode with the module itself")


@dataclass(frozen=True)
class _Wanted:
    """What a tier is chosen for."""

    encoder: ContentEncoder
    table: ItemTable
    amp_dtype: torch.dtype | None

    def agreed(self, objection: str | None) -> str | None:
        """One process's."""
        return objection


class _Made:
    """The texts, and passes by device and dtype; copies of the encoder share the former and make their own latter."""

    def __init__(self, table: ItemTable):
        self.table = table
        self.passes: dict[tuple[Any, ...], tuple[CapturedPasses | PackingEncoder, Ran]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Made:
        return _Made(self.table)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Made, (self.table,)


def _token_ids(items: Mapping[str, Any] | Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if not isinstance(items, Mapping):
        return items
    if "input_ids" not in items:
        raise ValueError("items that are a mapping must have the tokenizer's input_ids, a list for each item")
    rows, masks = items["input_ids"], items.get("attention_mask")
    if masks is None:
        return [list(map(int, row)) for row in rows]
    return [[int(i) for i, real in zip(row, mask, strict=True) if real] for row, mask in zip(rows, masks, strict=True)]
