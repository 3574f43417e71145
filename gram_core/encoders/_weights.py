"""Where BERT-like models keep the weights of their parts, and those weights as the packed pass reads them.

d width, f width of the feed-forward part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gram_core.kernels.embedding import EmbeddingWeights


@dataclass(frozen=True)
class Layout:
    """Names of a model's modules; those of a layer are below `layers`.N."""

    layers: str
    projections: tuple[str, str, str]
    """Queries, keys, values."""
    attention_out: str
    attention_norm: str
    up: str
    down: str
    norm: str
    activation: str
    """The configuration's key."""
    first_position: int | None
    """The position id of a text's first token; None is padding id + 1."""


_BERT = Layout(
    "encoder.layer",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    "hidden_act",
    0,
)
_ROBERTA = Layout(**{**vars(_BERT), "first_position": None})
_DISTILBERT = Layout(
    "transformer.layer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
    "activation",
    0,
)
LAYOUTS = {"bert": _BERT, "distilbert": _DISTILBERT, "roberta": _ROBERTA, "xlm-roberta": _ROBERTA}
"""Models that run packed, by `model_type`: layer norms behind the residual sums, positions from a table."""


_PARTS = {nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout, nn.ModuleList}
"""Types of torch's own that the pass knows, exactly these: a subclass may compute something else."""
_BIASED = (nn.Linear, nn.LayerNorm)


def changed(model: PreTrainedModel) -> str | None:
    """What makes a model of a known layout compute something else than the pass does, in a few words; None: nothing.

    Adapters, parametrizations and subclasses change a module's type, pruning and observers hang hooks on it, and a
    replaced `forward` is an attribute of the module itself.
    """
    library = (".".join(type(model).__module__.split(".")[:3]), "transformers.activations")
    if not library[0].startswith("transformers.models."):
        return f"the model is a {type(model).__qualname__} and not the library's own"
    for name, module in model.named_modules():
        if name.split(".")[0] == "pooler":  # not read
            continue
        if type(module) not in _PARTS and not type(module).__module__.startswith(library):
            kind = type(module)
            return f"{name} is a {kind.__qualname__} of {kind.__module__} and not the library's own"
        if (reason := bypassed(module)) is not None:
            return f"{name or 'the model'} has {reason}"
        if isinstance(module, _BIASED) and (module.weight is None or module.bias is None):
            return f"{name} has no bias"
    if (reason := rewrites(model)) is not None:
        return reason
    if offloads(model):
        return "its checkpoints are kept off the device"
    config: Any = model.config
    if getattr(config, "is_decoder", False):
        return "a decoder's tokens see earlier ones only"
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        return f"its positions are {config.position_embedding_type}"
    return None


def bypassed(module: nn.Module, *, forward: bool = True) -> str | None:
    """What of a module would not run if its weights were read and it were not called; None: nothing.

    forward: whether a forward of the module's own counts, beside hooks.
    """
    if forward and "forward" in vars(module):
        return "a forward of its own"
    changing = [hook for hook in module._forward_hooks.values() if not _only_asks_for_gradients(hook)]
    if changing or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "hooks"
    return None


def _only_asks_for_gradients(hook: Any) -> bool:
    """Whether a hook is the library's own by which checkpointed layers above a frozen embedding get gradients."""
    name = getattr(hook, "__qualname__", "")
    return getattr(hook, "__module__", "") == "transformers.modeling_utils" and "input_require_grads" in name


def rewrites(model: nn.Module) -> str | None:
    """A table whose rows are changed by being read, those of padding too; None where none is."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            return f"{name} changes its weights while it is read"
    return None


def offloads(model: nn.Module) -> bool:
    """Whether checkpointed layers keep their inputs elsewhere."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            function = getattr(module, "_gradient_checkpointing_func", None)
            return getattr(function, "func", function) is not checkpoint
    return False


@dataclass(frozen=True, eq=False)
class Linear:
    """A weight [out, in] and its bias [out]: parameters joined along their first dimension."""

    weights: tuple[nn.Parameter, ...]
    biases: tuple[nn.Parameter, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the joined weight."""
        return sum(len(weight) for weight in self.weights), self.weights[0].shape[1]

    @property
    def learns(self) -> bool:
        """Whether any part of the weight does."""
        return any(weight.requires_grad for weight in self.weights)

    def sources(self) -> tuple[tuple[nn.Parameter, ...], tuple[nn.Parameter, ...]]:
        """What the joined weight, and what the joined bias, is made of."""
        return self.weights, self.biases


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer norm's parameters [d]."""

    weight: nn.Parameter
    bias: nn.Parameter
    eps: float


@dataclass(frozen=True, eq=False)
class Layer:
    """The parameters of one layer."""

    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    norm: Norm

    def linears(self) -> tuple[Linear, ...]:
        """In the order in which the forward pass reads them."""
        return self.qkv, self.out, self.up, self.down

    @property
    def learns(self) -> bool:
        """Whether anything of it does."""
        vectors = [bias for linear in self.linears() for bias in linear.biases]
        vectors += [part for norm in (self.attention_norm, self.norm) for part in (norm.weight, norm.bias)]
        return any(linear.learns for linear in self.linears()) or any(vector.requires_grad for vector in vectors)


@dataclass(frozen=True, eq=False)
class Weights:
    """All parameters that the pass reads."""

    embedding: EmbeddingWeights
    layers: tuple[Layer, ...]

    def linears(self) -> Iterator[Linear]:
        """Of all layers."""
        for layer in self.layers:
            yield from layer.linears()

    def first_learning(self) -> int:
        """The lowest layer in which anything learns, their number where none does; -1 where the embedding learns."""
        embedding = self.embedding
        if any(part.requires_grad for part in (*embedding.tables(), embedding.norm_weight, embedding.norm_bias)):
            return -1
        learning = (number for number, layer in enumerate(self.layers) if layer.learns)
        return next(learning, len(self.layers))

    def parameters(self) -> list[Tensor]:
        """Every parameter, once: tables, norm of the embedding, then layer by layer as `linears`, then its norms."""
        embedding = self.embedding
        found = [*embedding.tables(), embedding.norm_weight, embedding.norm_bias]
        for layer in self.layers:
            for linear in layer.linears():
                found += [*linear.weights, *linear.biases]
            for norm in (layer.attention_norm, layer.norm):
                found += [norm.weight, norm.bias]
        return found


def weights_of(model: PreTrainedModel) -> Weights:
    """The parameters of a model that has a layout."""
    config: Any = model.config
    layout = LAYOUTS[config.model_type]
    tables: Any = model.get_submodule("embeddings")
    first = int(config.pad_token_id) + 1 if layout.first_position is None else layout.first_position
    ignored = tables.word_embeddings.padding_idx
    types = getattr(tables, "token_type_embeddings", None)
    embedding = EmbeddingWeights(
        words=tables.word_embeddings.weight,
        positions=tables.position_embeddings.weight,
        types=None if types is None else types.weight,
        norm_weight=tables.LayerNorm.weight,
        norm_bias=tables.LayerNorm.bias,
        eps=float(tables.LayerNorm.eps),
        first_position=first,
        ignored=-1 if ignored is None else int(ignored),
    )
    stack: Any = _stack(model)
    return Weights(embedding, tuple(_layer(layer, layout) for layer in stack))


def runs_again(model: PreTrainedModel) -> tuple[bool, ...]:
    """Whether the model checkpoints each of its layers, as it is now."""
    return tuple(bool(getattr(layer, "gradient_checkpointing", False) and layer.training) for layer in _stack(model))


def _stack(model: PreTrainedModel) -> Any:
    return model.get_submodule(LAYOUTS[model.config.model_type].layers)


def _layer(layer: nn.Module, layout: Layout) -> Layer:
    def linear(*names: str) -> Linear:
        modules: list[Any] = [layer.get_submodule(name) for name in names]
        return Linear(tuple(module.weight for module in modules), tuple(module.bias for module in modules))

    def norm(name: str) -> Norm:
        module: Any = layer.get_submodule(name)
        return Norm(module.weight, module.bias, float(module.eps))

    return Layer(
        qkv=linear(*layout.projections),
        out=linear(layout.attention_out),
        attention_norm=norm(layout.attention_norm),
        up=linear(layout.up),
        down=linear(layout.down),
        norm=norm(layout.norm),
    )


def joined_in(dtype: torch.dtype, weights: Weights) -> list[tuple[Tensor, Tensor]]:
    """Every linear's joined weight and bias in `dtype`; the parameters themselves where they are that already."""
    if weights.embedding.words.dtype == dtype:
        return [(_joined(linear.weights), _joined(linear.biases)) for linear in weights.linears()]
    room = copies(weights, dtype)
    copy_into(room, weights)
    return room


def _joined(parts: tuple[nn.Parameter, ...]) -> Tensor:
    return parts[0].detach() if len(parts) == 1 else torch.cat([part.detach() for part in parts])


def copies(weights: Weights, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Room for every linear's joined weight and bias in `dtype`; not initialised."""
    device = weights.embedding.words.device
    return [
        (
            torch.empty(*linear.shape, dtype=dtype, device=device),
            torch.empty(linear.shape[0], dtype=dtype, device=device),
        )
        for linear in weights.linears()
    ]


def copy_into(room: list[tuple[Tensor, Tensor]], weights: Weights) -> None:
    """Writes every linear's parameters into `room`, joined and cast, in few launches."""
    targets: list[Tensor] = []
    sources: list[Tensor] = []
    for linear, joined in zip(weights.linears(), room, strict=True):
        for whole, parts in zip(joined, linear.sources(), strict=True):
            targets += whole.split([len(part) for part in parts])
            sources += parts
    torch._foreach_copy_(targets, sources)
