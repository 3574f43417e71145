"""A Hugging Face encoder with the engine's passes in anyone's loop: real tokens only, in few launches.

    encoder = accelerated(model, token_ids, pooling="mean")
    history, candidates = encode(encoder, batch["history"], batch["candidates"])

On a GPU forward and backward are captured apart, for each size, and replayed. Loss, backward, clipping, scaling and
stepping stay the caller's, and so does autocast, whose dtype at the call is the one that is computed in.
n items of a call, d width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from gram_core.batch import ItemTable, are_integers, token_row
from gram_core.encoders._wrapped import model_within
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.pooling import Pooling
from gram_core.encoders.probe import probe
from gram_core.encoders.watch import ModuleState
from gram_core.engines._captured_passes import CapturedPasses
from gram_core.engines._launched_pass import launched
from gram_core.engines._tiers import FallBack, Ran, choose
from gram_core.protocols import ContentEncoder


def accelerated(
    module: PreTrainedModel | HuggingFaceEncoder,
    items: ItemTable | Mapping[str, Any] | Sequence[Sequence[int]],
    *,
    pooling: Pooling | Literal["auto"] = "auto",
    pad_token_id: int | None = None,
    text_length: int | None = None,
    replayed: bool = True,
) -> Accelerated:
    """`module` on texts `items` as an encoder of item ids, for `encode`, `encoded` and `MultiStepEncodings`.

    module: adapters of peft and torch.compile may be around the model. items: a list of token ids for each item,
    special tokens included; a tokenizer's output, of which padding is left out where it has an `attention_mask`; or an
    `ItemTable`. The following are for a model, and part of a
    `HuggingFaceEncoder` already:
    pooling: see `HuggingFaceEncoder`. pad_token_id: None takes the model's. text_length: the most tokens of a text;
    None takes the longest of `items`.
    replayed: whether a GPU replays passes from graphs, a pair for each size that is met twice, instead of launching
    them kernel by kernel; the graphs of a size share memory with those of other sizes. False where sizes hardly recur.
    Raises TypeError for a module that is no model of transformers and items that are no token ids, ValueError for texts
    that the model has no room for and where they can't be packed, with the reason; what hangs on the dtype of autocast
    is said by the first call.
    """
    if isinstance(module, DistributedDataParallel):
        raise TypeError("give accelerated the module inside, and wrap the module that calls encode")
    table = items if isinstance(items, ItemTable) else ItemTable.from_lists(_token_ids(items))
    if isinstance(module, HuggingFaceEncoder):
        if (pooling, pad_token_id, text_length) != ("auto", None, None):
            raise ValueError("pooling, pad_token_id and text_length are the HuggingFaceEncoder's own: set them there")
        encoder = module
    else:
        encoder = _encoder(module, table, pooling, pad_token_id, text_length)
    _check_texts(encoder, table)
    made = Accelerated(encoder, table, replayed)
    made.prepare()
    return made


class Accelerated(nn.Module):
    """Item ids int64 [n] -> encodings [n, d]; its parameters are the encoder's. See `accelerated`.

    Ids that lie on a GPU are waited for: leave them on the host.
    """

    def __init__(self, encoder: HuggingFaceEncoder, table: ItemTable, replayed: bool = True):
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
        """Encodings [n, d] of the items `ids` int64 [n], in their order; differentiable once."""
        return self._encoded(ids, again=False)

    def recomputed(self, ids: Tensor) -> Tensor:
        """The same keeping no activation: the backward pass encodes again."""
        return self._encoded(ids, again=True)

    def _encoded(self, ids: Tensor, again: bool) -> Tensor:
        if not isinstance(ids, Tensor):
            raise TypeError(f"ids must be a tensor of integers [n], not a {type(ids).__name__}")
        if ids.dim() != 1 or not are_integers(ids.dtype):
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
        if isinstance(passes, CapturedPasses) and holds:
            found = passes(texts, again=again)
        else:
            learning = [parameter for parameter in state.parameters if parameter.requires_grad]
            found = launched(encoder, texts, learning, again)
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


def _encoder(
    module: PreTrainedModel, table: ItemTable, pooling: Any, pad_token_id: int | None, text_length: int | None
) -> HuggingFaceEncoder:
    """A model of transformers, wrapped by peft or torch.compile or not, as an encoder of the table's texts."""
    if not isinstance(module, nn.Module) or not isinstance(model_within(module), PreTrainedModel):
        raise TypeError(
            f"accelerated takes a model of transformers or a HuggingFaceEncoder, not {type(module).__name__}"
        )
    for name, value in (("pad_token_id", pad_token_id), ("text_length", text_length)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
    pad = (module.config.pad_token_id or 0) if pad_token_id is None else pad_token_id
    _check_ids(torch.tensor([pad]), "pad_token_id", module)
    if text_length is not None and text_length < 1:
        raise ValueError(f"text_length must be at least 1, not {text_length}")
    longest = int(table.lengths.max()) if text_length is None else text_length
    return HuggingFaceEncoder(module, pad_token_id=pad, text_length=longest, pooling=pooling)


def _check_texts(encoder: HuggingFaceEncoder, table: ItemTable) -> None:
    """Raises ValueError for texts that the model has no row or no position for."""
    _check_ids(torch.tensor([encoder.pad_token_id]), "pad_token_id", encoder.model)
    _check_ids(table.tokens, "token ids", encoder.model)
    longest = int(table.lengths.max())
    whose, room = "text_length is", encoder.text_length
    positions = probe(model_within(encoder.model), encoder.pad_token_id).longest
    if positions is not None and positions < room:
        whose, room = "the model's table of positions has room for", positions
    if longest > room:
        item = int(table.lengths.argmax())
        raise ValueError(f"item {item} has {longest} tokens, and {whose} {room}: cut texts to that (a tokenizer does)")
    if encoder.padding == "max_length" and encoder.text_length > room:
        raise ValueError(f"text_length is {encoder.text_length}, and {whose} {room}")


def _check_ids(ids: Tensor, what: str, model: PreTrainedModel) -> None:
    """Raises ValueError for ids that the model's table of words has no row for."""
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    for odd in (int(ids.min()), int(ids.max())):
        if not 0 <= odd < rows:
            raise ValueError(f"{what} must be from 0 to {rows - 1}, the model's vocabulary, not {odd}")


def _token_ids(items: Mapping[str, Any] | Sequence[Sequence[int]]) -> Iterable[Any]:
    """One row of token ids for each item, padding left out."""
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise TypeError(f"items must be a list of token ids for each item, not {type(items).__name__}")
    if not isinstance(items, Mapping):
        return items
    if "input_ids" not in items:
        raise ValueError("items that are a mapping must have the tokenizer's input_ids, a list for each item")
    rows, masks = items["input_ids"], items.get("attention_mask")
    if masks is None:
        return rows
    if len(masks) != len(rows):
        raise ValueError(f"attention_mask is of {len(masks)} texts, and input_ids of {len(rows)}")
    return [_real(row, mask, item) for item, (row, mask) in enumerate(zip(rows, masks, strict=True))]


def _real(row: Any, mask: Any, item: int) -> Tensor:
    ids, real = token_row(row, item), torch.as_tensor(mask, device="cpu").bool()
    if real.shape != ids.shape:
        raise ValueError(f"item {item} has {len(ids)} token ids, and its attention_mask is {list(real.shape)}")
    return ids[real]
