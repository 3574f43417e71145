"""A model cut between two of its layers: what enters the upper ones is computed by the lower ones, or given.

Whatever a family does around its layers (embeddings, masks, positions, rotary tables, the last norm), the model does
itself: layers are passed over by giving each of them, for the time of a call, a forward pass that hands on what it
gets. So a model runs as it is written, without code for any family.
n texts, L tokens padded, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gram_core.batch import Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.probe import evaluating


class Uncut(Exception):
    """A model that cannot be cut, and why, as the end of a sentence about it."""


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that its configuration counts. Raises Uncut where no list in the model has as many."""
    count = int(model.config.num_hidden_layers)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise Uncut(f"has no list of its {count} layers")


class SplitLayers:
    """The encoder's model, cut below its last `trained` layers; learnt from a call on `texts`.

    Raises Uncut where there is nothing below them, and where what a layer gets is not the states of padded texts.
    """

    def __init__(self, encoder: HuggingFaceEncoder, trained: int, texts: Texts):
        self._layers = layers_of(encoder.model)
        self.below = len(self._layers) - trained
        """Layers that are passed over."""
        if self.below < 1:
            raise Uncut(f"has {len(self._layers)} layers, of which {trained} on top leave none below")
        self._tuples: list[int | None] = [None] * len(self._layers)
        """How many parts a layer returns besides the states; None: the states alone."""
        entering = self._watch(encoder, texts)
        self.dtype, self.width = entering.dtype, entering.shape[-1]
        """Of the states that enter the upper layers."""

    def of(self, model: PreTrainedModel) -> SplitLayers:
        """The same cut through a copy of the model."""
        shared = copy.copy(self)
        shared._layers = layers_of(model)
        return shared

    @contextmanager
    def reading(self, states: Tensor) -> Iterator[None]:
        """Within, the lower layers are passed over, and the upper ones get these states [n, L, d]."""
        hand_on = [self._handing_on(number, None) for number in range(self.below - 1)]
        with self._with_forwards([*hand_on, self._handing_on(self.below - 1, lambda _: states)]):
            yield

    @contextmanager
    def below_only(self) -> Iterator[list[Tensor]]:
        """Within, the upper layers are passed over; the list then ends with the states [n, L, d] of the last call."""
        found: list[Tensor] = []

        def note(states: Tensor) -> Tensor:
            found.append(states)
            return states

        forwards: list[Any] = [None] * self.below
        forwards += [
            self._handing_on(number, note if number == self.below else None)
            for number in range(self.below, len(self._layers))
        ]
        with self._with_forwards(forwards):
            yield found

    def _handing_on(self, number: int, change: Callable[[Tensor], Tensor] | None) -> Callable[..., Any]:
        """A forward pass that returns what it gets, in the form in which that layer returns its states."""
        others = self._tuples[number]

        def forward(*args: Any, **kwargs: Any) -> Any:
            states = _states(args, kwargs)
            if change is not None:
                states = change(states)
            return states if others is None else (states, *[None] * others)

        return forward

    @contextmanager
    def _with_forwards(self, forwards: list[Any]) -> Iterator[None]:
        """Within, the first layers have these forward passes; None leaves a layer its own."""
        before = [vars(layer).get("forward") for layer in self._layers]
        for layer, forward in zip(self._layers, forwards, strict=False):
            if forward is not None:
                layer.forward = forward
        try:
            yield
        finally:
            for layer, own in zip(self._layers, before, strict=True):
                vars(layer).pop("forward", None)
                if own is not None:
                    layer.forward = own

    def _watch(self, encoder: HuggingFaceEncoder, texts: Texts) -> Tensor:
        """What enters the upper layers [n, L, d] in one call of the model, which shows what layers get and return."""
        entering: list[Tensor] = []

        def watched(number: int, layer: nn.Module) -> Callable[..., Any]:
            own = layer.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                if number == self.below:
                    entering.append(_states(args, kwargs))
                returned = own(*args, **kwargs)
                self._tuples[number] = len(returned) - 1 if isinstance(returned, tuple) else None
                return returned

            return forward

        forwards = [watched(number, layer) for number, layer in enumerate(self._layers)]
        with torch.no_grad(), evaluating(encoder), self._with_forwards(forwards):
            encoder.encode(texts, padded_to=None)
        shape = (len(texts), int(texts.lengths.max()))
        if len(entering) != 1 or entering[0].shape[:2] != shape:
            raise Uncut("does not hand the states of padded texts from layer to layer, once each")
        return entering[0]


def _states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    states = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(states, Tensor):
        raise Uncut("hands its layers no states first")
    return states


def freeze_below(split: SplitLayers, encoder: HuggingFaceEncoder, texts: Texts) -> None:
    """Freezes all that the states entering the upper layers depend on: lower layers, embeddings, and what is shared
    with them."""
    learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    with torch.enable_grad(), evaluating(encoder), split.below_only() as found:
        encoder.encode(texts, padded_to=None)
    if not found[-1].requires_grad:
        return
    gradients = torch.autograd.grad(found[-1].sum(), learning, allow_unused=True)
    for parameter, gradient in zip(learning, gradients, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)
