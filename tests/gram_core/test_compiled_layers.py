"""Layers are compiled once for all of a kind and all sizes, and compute then what they compute uncompiled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from gram_core.encoders import _layer_calls, _layer_compilation
from gram_core.encoders._layer_calls import UncompiledLayers
from gram_core.encoders.general import GeneralEncoder
from gram_core.exactness import relative_errors
from tests.gram_core.test_general_encoder import FAMILIES, encoded, encoder_of, texts_of

GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    _layer_calls._compiled.cache_clear()
    yield
    _layer_calls._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "adapters", "kinds"), [("qwen3", False, 1), ("qwen3", True, 1), ("modernbert", False, 3)]
)
def test_layers_of_a_kind_are_compiled_once(
    family: str, adapters: bool, kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With narrow copies of weights, the lowest layer's input in float32, and adapters alone that learn.

    ModernBERT's first layer has no norm, and of the others some have windows.
    """
    graphs: list[Any] = []

    def counted(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(_layer_calls, "compiled", lambda f: torch.compile(f, dynamic=True, backend=counted))
    general = GeneralEncoder(encoder_of(family, torch.float32, adapters), torch.bfloat16)
    general.standing = general.make_standing(None, False, None)
    general._compiles = True
    for lengths in ((5, 9, 3), (7, 2), (11, 30, 4, 4)):
        general.standing.begin_step()
        general.encode(general.pack(texts_of(*lengths))).float().sum().backward()
    assert len(graphs) == kinds
    assert not [node for graph in graphs for node in graph.graph.nodes if _delays(node)]


def test_layers_of_more_kinds_than_are_compiled_run_uncompiled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant of its own in each layer makes it a kind of its own; more of them were an error of torch's."""
    graphs: list[Any] = []

    def counted(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(_layer_compilation, "VARIANTS", 2)
    monkeypatch.setattr(_layer_calls, "compiled", lambda f: torch.compile(f, dynamic=True, backend=counted))
    monkeypatch.setitem(FAMILIES, "qwen3", FAMILIES["qwen3"] | {"num_hidden_layers": 6})
    encoder = encoder_of("qwen3", torch.float64)
    for number, layer in enumerate(encoder.model.layers):
        layer.input_layernorm.variance_epsilon = 0.1 * (number + 1)
    general = GeneralEncoder(encoder)
    told = 0
    for lengths in ((5, 9, 3), (7, 2), (11, 30, 4, 4)):
        packed = general.pack(texts_of(*lengths))
        expected, gradients = encoded(partial(general.alone().encode, packed), encoder)
        general._compiles = True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mine, found = encoded(partial(general.encode, packed), encoder)
        told += sum(each.category is UncompiledLayers for each in caught)
        assert max(relative_errors({"": mine, **found}, {"": expected, **gradients}).values()) <= 1e-9
    assert told == 1
    assert len(graphs) == 2
    assert len(general._uncompiled) == 6 - 2


def _delays(node: torch.fx.Node) -> bool:
    """Whether torch compiles such a graph anew in every process, or traces it twice: one that switches autocast, one
    that reads a Python float as a variable."""
    switches = node.target in (torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast)
    return switches or isinstance(node.meta.get("example_value"), torch.SymFloat)


@pytest.mark.parametrize("family", ["modernbert", "qwen3"])
def test_a_compiled_layer_computes_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters; on a GPU as the engine compiles it, elsewhere traced, divided and run operator by operator."""
    if not GPU:
        parts = "aot_eager_decomp_partition"
        monkeypatch.setattr(_layer_calls, "compiled", lambda f: torch.compile(f, dynamic=True, backend=parts))
        monkeypatch.setitem(FAMILIES, family, FAMILIES[family] | {"num_hidden_layers": 2})
    dtype, bound = (torch.float32, 2e-3) if GPU else (torch.float64, 1e-5)  # norms are float32's in any case
    encoder = encoder_of(family, dtype, adapters=True).to("cuda" if GPU else "cpu")
    general = GeneralEncoder(encoder)
    assert general._adapted
    for lengths in ((5, 9, 3), (30, 2)):
        packed = general.pack(texts_of(*lengths)).to(encoder.model.device)
        expected, gradients = encoded(partial(general.alone().encode, packed), encoder)
        general._compiles = True
        mine, found = encoded(partial(general.encode, packed), encoder)
        errors = relative_errors({"": mine, **found}, {"": expected, **gradients})
        assert max(errors.values()) <= bound


def test_what_keeps_results_names_operators_that_there_are() -> None:
    assert all(isinstance(operator, torch._ops.OpOverload) for operator in _layer_compilation.NEVER_AGAIN)
