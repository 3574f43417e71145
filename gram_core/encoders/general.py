"""Any model of transformers on packed texts: its own code, with our attention behind the library's interface.

Nothing of a family is written down here. The model runs as it is, adapters, hooks and frozen layers included, on one
row of all texts' tokens; positions start anew with each text, and attention keeps within it (`_own_attention`). On a
GPU each layer is compiled, once for all sizes and for all layers alike. T tokens packed, n texts, d width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gram_core.batch import ItemTable, Texts
from gram_core.encoders._layer_calls import LayerCalls, stacks
from gram_core.encoders._lora_calls import calling_once, plain
from gram_core.encoders._mpnet_attention import attending as attending_as_mpnet
from gram_core.encoders._own_attention import attending, interface_for, layout_of
from gram_core.encoders._rotary_tables import RotaryTables
from gram_core.encoders._table_rows import large_tables, read_as_rows
from gram_core.encoders._traces import leaving_no_trace
from gram_core.encoders._weights import offloads, rewrites
from gram_core.encoders._wrapped import around, model_within
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed_pooling import pooled
from gram_core.encoders.packing_encoder import PackingEncoder, needs_padding, refuses_dtype
from gram_core.encoders.probe import evaluating, positions
from gram_core.encoders.shadows import Shadows
from gram_core.kernels import text_attention
from gram_core.packing import PackedTexts, pack
from gram_core.protocols import Room

WITHOUT_INTERFACE = {"mpnet": attending_as_mpnet}
"""Models that look up no attention and are told ours otherwise, by `model_type`."""


def unsupported(encoder: HuggingFaceEncoder) -> str | None:
    """Why this encoder can't run so, in a few words, as far as that is known without trying; None where it may."""
    model = model_within(encoder.model)
    if not isinstance(model, PreTrainedModel):
        return f"the model is a {type(model).__qualname__} and none of transformers"
    if (reason := around(encoder.model)) is not None:
        return reason
    if not (_calls_interface(model) or model.config.model_type in WITHOUT_INTERFACE):
        return f"model type {model.config.model_type} computes its attention by itself"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"model type {model.config.model_type} counts positions by itself"
    if (reason := needs_padding(encoder)) is not None:
        return reason
    if (reason := rewrites(model)) is not None:
        return reason
    if offloads(model):
        return "its checkpoints are kept off the device"
    return text_attention.refuses(_head_width(model), model.dtype, model.device)


def refuses(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> str | None:
    """The same, for a training that computes in `amp_dtype`."""
    return refuses_dtype(amp_dtype) or unsupported(encoder)


class GeneralEncoder(PackingEncoder):
    """A model as it is on packed texts.

    Raises ValueError where `unsupported` gives a reason; whether the model's code does keep texts apart is to be proved
    (`proof.differs`).
    """

    def __init__(self, encoder: HuggingFaceEncoder, compute_dtype: torch.dtype | None = None):
        reason = unsupported(encoder)
        if reason is not None:
            raise ValueError(f"the encoder can't run on packed texts: {reason}")
        model = model_within(encoder.model)
        block = text_attention.tile_for(encoder.text_length, _head_width(model), compute_dtype or model.dtype)
        super().__init__(encoder, compute_dtype, block)
        self._compiles = model.device.type == "cuda"
        self._again = False
        with leaving_no_trace(encoder):
            self._positions = positions(model, encoder.pad_token_id)
        self.read_again()

    def read_again(self) -> None:
        """Finds the layers, and the configurations that say which attention they call."""
        model = self._model = model_within(self.encoder.model)
        self._layers = stacks(model)
        configs = [module.config for module in model.modules() if hasattr(getattr(module, "config", None), "to_dict")]
        self._configs = list({id(config): config for config in configs}.values())
        self._inputs = _constant_inputs(model)
        self._adapted = plain(model)
        self._tables = RotaryTables(self.compute_dtype)
        self._uncompiled: WeakSet[nn.Module] = WeakSet()

    def recomputing(self) -> GeneralEncoder:
        """The same encoder keeping each layer's input only from forward to backward, where the layer runs again."""
        shared = copy.copy(self)
        shared._again = True
        return shared

    def alone(self) -> GeneralEncoder:
        """The same pass on the parameters as they are, not compiled: for a few texts."""
        shared = super().alone()
        shared._compiles = False
        return shared

    def encode(self, packed: PackedTexts) -> Tensor:
        """Encodings [n, d] of packed texts on the device, capacity rows and all."""
        if self.standing is not None:
            self.standing.refresh()
        rows = packed.tokens.long()[None]
        inputs = {
            "input_ids": rows,
            "attention_mask": layout_of(packed),
            "position_ids": packed.positions.long()[None] + self._positions.first,
            **{name: torch.zeros_like(rows) if value is None else value for name, value in self._inputs.items()},
        }
        with self._running():
            states = self._model(**inputs).last_hidden_state[0]
            with torch.autocast(states.device.type, enabled=False):
                return self.encoder.finish(pooled(self.encoder.pooling, states, packed, self.encoder.model.dtype))

    @property
    def proved_tokens(self) -> int:
        """More than the table of positions has rows: some models refuse rows of so many."""
        return self._positions.rows + 1

    def trained_parameters(self) -> list[Tensor]:
        """All of the encoder's."""
        return list(self.encoder.parameters())

    def standing_parameters(self) -> list[Tensor] | None:
        """All that learn."""
        return self._learning() or None

    def make_standing(self, gradient_dtype: torch.dtype | None, summed: bool, room: Room | None) -> Shadows:
        """Shadows of the whole encoder."""
        learning = self._learning()
        large = large_tables(self.encoder, {id(parameter) for parameter in learning})
        tables = read_as_rows(large, self._gradients)
        return Shadows(self.encoder, self._layers, learning, self.compute_dtype, gradient_dtype, room, summed, tables)

    def _learning(self) -> list[Tensor]:
        """The parameters that a backward pass gives a gradient: a pooler that nobody reads learns nothing."""
        parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        gradients = self._gradients(parameters)
        return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]

    def _gradients(self, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Of `tensors` in a pass of two tokens."""
        texts = pack(_two_tokens(), self.block, self.encoder.pad_token_id).to(self.encoder.model.device)
        with torch.enable_grad(), evaluating(self.encoder):
            encodings = self.alone().encode(texts)
            if not encodings.requires_grad:
                return [None] * len(tensors)
            return torch.autograd.grad(encodings.sum(), tensors, allow_unused=True)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within, the model's code computes on packed texts."""
        narrow = self.compute_dtype != self.encoder.model.dtype
        how = (self.compute_dtype, self._compiles, self._again)
        calls = LayerCalls(self._layers, *how, self._running, self._tables, self._uncompiled)
        with ExitStack() as stack:
            stack.enter_context(attending(self._configs, interface_for(self.block)))
            if self._model.config.model_type in WITHOUT_INTERFACE:
                adapt = WITHOUT_INTERFACE[self._model.config.model_type]
                stack.enter_context(adapt(self._model, self.block, self.encoder.text_length))
            stack.enter_context(torch.autocast(self.encoder.model.device.type, self.compute_dtype, enabled=narrow))
            stack.enter_context(self.standing.installed() if self.standing is not None else nullcontext())
            stack.enter_context(calling_once(self._adapted))
            stack.enter_context(calls.installed())
            stack.callback(self._tables.pass_is_over)
            yield

    @property
    def _recomputes(self) -> bool:
        return self._again


def _calls_interface(model: PreTrainedModel) -> bool:
    """Whether the model's attention is looked up by the name that its configuration has."""
    return bool(getattr(model, "_supports_attention_backend", False) and type(model)._can_set_attn_implementation())


def _head_width(model: PreTrainedModel) -> int:
    config: Any = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _constant_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """What the model is told besides tokens and where they stand; None: zeros, for every token."""
    constants: dict[str, Any] = {"use_cache": False}
    if getattr(model.config, "type_vocab_size", 0):
        constants["token_type_ids"] = None  # left out, they are those of as many tokens as a text may have
    takes = inspect.signature(model.forward).parameters
    return {name: value for name, value in constants.items() if name in takes}


def _two_tokens() -> Texts:
    return ItemTable.from_lists([[0, 1]]).texts(torch.tensor([0]))
