"""What an encoder and a CF module are, as far as time and memory go: operations per token, parameters, what autograd
keeps of a token. Read from the modules themselves, on the host, with one or two layers and a few texts.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from bench.build.assembly import cf_module_class, set_dropout
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.encoders import _base as encoders
from bench.encoders._base import LoadedEncoder, Loading
from bench.encoders._encoding import check_length
from bench.measure.flops import encoder_flops
from bench.workloads._base import slots_per_user
from gram_core.batch import Batch, Texts
from gram_core.encoders import general, packed
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.general import GeneralEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.protocols import ItemSource

STATES = {"adamw": 2, "adam": 2, "sgd": 0}
"""Tensors that an optimizer keeps per parameter."""
TILED_HEADS = (16, 32, 64)
"""Widths of heads that the packed tier's kernels compute (`gram_core.encoders.packed`)."""
PROBES = 16
"""Texts that are encoded to see what autograd keeps of them."""
PROBE_USERS = 4
SEEN = (2, 4)
"""Lengths of texts whose operations give those of any; one token's products would pass for outer ones, which count as
no work."""


@dataclass(frozen=True)
class EncoderShape:
    """An encoder on an engine.

    tier: "padded", "packed", "general" or "bucketed". token_flops, square_flops: forward operations per token and per
    squared length of a text. element_bytes: of the numbers that layers compute in; weight_bytes: of the master weights.
    kept_bytes: what a computed token leaves for the backward pass, embedding and pooling included; layer_bytes: a
    layer's part of it; input_bytes: of a layer's input alone. cast_bytes: what a pass keeps however many tokens it is
    given: autocast's copies of weights. standing_bytes: copies of weights and places for gradients that stay from step
    to step, where the engine has any on a GPU. feed_forward: width between a layer's last two products.
    """

    family: str
    tier: str
    layers: int
    width: int
    parameters: int
    token_flops: float
    square_flops: float
    element_bytes: int
    weight_bytes: int
    kept_bytes: float = 0.0
    layer_bytes: float = 0.0
    cast_bytes: float = 0.0
    standing_bytes: float = 0.0
    feed_forward: int = 0

    @property
    def input_bytes(self) -> int:
        """Of a layer's input, per token: what checkpointing keeps."""
        return self.width * self.element_bytes


@dataclass(frozen=True)
class CFShape:
    """A CF module. user_bytes: what a user's loss leaves for the backward pass, the slots' encodings included."""

    name: str
    parameters: int
    width: int
    user_bytes: float = 0.0


def dtype_of(precision: str) -> torch.dtype:
    """The master weights' dtype."""
    return torch.float64 if precision == "float64" else torch.float32


def compute_dtype(precision: str) -> torch.dtype:
    """What layers multiply in."""
    return torch.bfloat16 if precision == "bf16" else dtype_of(precision)


def load(config: Config, case: Case, device: str = "cpu", layers: int | None = None) -> LoadedEncoder:
    """The case's encoder. Raises ValueError where texts cannot be so long, and for one that does not train whole."""
    run = config.run
    asked = Loading(
        torch.device(device),
        dtype_of(case.precision),
        layers or case.layers,
        run.seed,
        dropout=run.dropout,
        base=config.model.base,
    )
    loaded = encoders.load(case.encoder, asked)
    check_length(loaded, case.encoder, case.text_length)
    if _has_adapters(loaded.model):
        raise ValueError(
            f"plan and calibrate know encoders that train whole, and {case.encoder} is a folder of adapters: measure "
            "it by gram-bench run"
        )
    return loaded


def _has_adapters(model: nn.Module) -> bool:
    peft: Any = sys.modules.get("peft")
    kind = None if peft is None else peft.tuners.tuners_utils.BaseTunerLayer
    return kind is not None and any(isinstance(module, kind) for module in model.modules())


def encoder_shape(config: Config, case: Case, engine: str, loaded: LoadedEncoder) -> EncoderShape:
    """Sizes and operations; nothing of what autograd keeps (see `with_kept`)."""
    model = loaded.model
    short, long = (float(encoder_flops(model, torch.tensor([length]))) / length for length in SEEN)
    square = (long - short) / (SEEN[1] - SEEN[0])
    encoder = _wrapped(config, case, loaded)
    return EncoderShape(
        family=str(model.config.model_type),
        tier=tier_of(engine, encoder, config.run.device),
        layers=int(model.config.num_hidden_layers),
        width=encoder.width,
        parameters=sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad),
        token_flops=short - SEEN[0] * square,
        square_flops=square,
        element_bytes=compute_dtype(case.precision).itemsize,
        weight_bytes=dtype_of(case.precision).itemsize,
        feed_forward=_feed_forward(model.config, encoder.width),
    )


def _feed_forward(config: Any, width: int) -> int:
    """As models name it; most of those that do not say have four times their width."""
    named = (getattr(config, name, None) for name in ("intermediate_size", "hidden_dim", "ffn_dim"))
    return int(next((each for each in named if isinstance(each, int)), 4 * width))


def tier_of(engine: str, encoder: HuggingFaceEncoder, device: str) -> str:
    """How an engine runs this encoder on a kind of device, which need not be here."""
    if engine == "eager":
        return "padded"
    heads = encoder.width // int(encoder.model.config.num_attention_heads)
    without_kernels = device == "cuda" and (encoder.model.dtype == torch.float64 or heads not in TILED_HEADS)
    if not (without_kernels or packed.unsupported(encoder)):
        return "packed"
    return "bucketed" if general.unsupported(encoder) else "general"


def with_kept(shape: EncoderShape, config: Config, case: Case, table: ItemSource) -> EncoderShape:
    """The shape with what autograd keeps, of a computed token and of a pass: seen with one layer and with two, on a few
    texts and on twice as many."""
    chosen = torch.linspace(0, len(table) - 1, min(PROBES, len(table))).long()
    few, twice = table.take(chosen), table.take(chosen.repeat(2))
    by_token, by_pass, standing = [], [], []
    for layers in (1, 2)[: shape.layers]:
        encoder = _on_host(config, case, shape.tier, layers)
        tokens = float(computed(shape.tier, config.run.padding, case.text_length, few.lengths).sum())
        less, more = (_kept_bytes(encoder, texts, case.precision) for texts in (few, twice))
        by_token.append((more - less) / tokens)
        by_pass.append(max(0.0, 2 * less - more))
        standing.append(_standing_bytes(encoder, config))
    return replace(
        shape,
        kept_bytes=_of_all_layers(by_token, shape.layers),
        layer_bytes=by_token[-1] - by_token[0] if len(by_token) > 1 else by_token[0],
        cast_bytes=_of_all_layers(by_pass, shape.layers),
        standing_bytes=_of_all_layers(standing, shape.layers),
    )


def _of_all_layers(found: list[float], layers: int) -> float:
    """From that of one layer and of two, or of the only one."""
    return found[0] + (found[-1] - found[0]) * (layers - 1)


def computed(tier: str, padding: str, text_length: int, lengths: Tensor) -> Tensor:
    """Tokens that a tier computes of texts of these lengths, per text, int64 [n]."""
    if tier in ("packed", "general"):
        return lengths
    if tier == "bucketed" or padding == "longest":
        return torch.full_like(lengths, int(lengths.max())) if tier == "padded" else lengths
    return torch.full_like(lengths, text_length)


def _wrapped(config: Config, case: Case, loaded: LoadedEncoder) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(
        loaded.model,
        pad_token_id=loaded.pad_token_id,
        text_length=case.text_length,
        pooling=config.model.pooling,
        padding=config.run.padding,
    )


def _on_host(config: Config, case: Case, tier: str, layers: int) -> nn.Module:
    encoder = _wrapped(config, case, load(config, case, "cpu", layers))
    set_dropout(encoder, config.run.dropout)
    if tier == "packed":
        return PackedEncoder(encoder, torch.bfloat16 if case.precision == "bf16" else None)
    if tier == "general":
        return GeneralEncoder(encoder, torch.bfloat16 if case.precision == "bf16" else None)
    return BucketedEncoder(encoder) if tier == "bucketed" else encoder


def _kept_bytes(encoder: nn.Module, texts: Texts, precision: str) -> float:
    owned = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept = _Kept(owned)
    with kept, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        encodings = encoder(texts)
    kept.add_all(getattr(encodings.grad_fn, "kept", None))
    return float(kept.bytes)


def _standing_bytes(encoder: nn.Module, config: Config) -> float:
    """Of what stands while AdamW moves everything that learns; see `gram_core.engines._capturable.stand`."""
    run = config.run
    if not isinstance(encoder, PackingEncoder) or run.optimizer != "adamw" or run.max_grad_norm is not None:
        return 0.0
    if encoder.compute_dtype == encoder.encoder.model.dtype or encoder.standing_parameters() is None:
        return 0.0
    made = _Made()
    with made:
        standing = encoder.make_standing(None, False, None)
    found = made.bytes_beside(encoder.parameters())
    del standing
    return found


class _Made(TorchDispatchMode):
    """Storages that are made within and still there."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, list | tuple) else (found,):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.data_ptr(), storage.nbytes()
        return found

    def bytes_beside(self, tensors: Iterable[Tensor]) -> float:
        """Of all that are none of these tensors'."""
        owned = {each.untyped_storage().data_ptr() for each in tensors}
        left = (size for made, place, size in self._made.values() if not made.expired() and place not in owned)
        return float(sum(left))


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of the storages that autograd saves within, each once; what is `owned` (parameters) is not counted."""

    def __init__(self, owned: set[int]):
        super().__init__(self._pack, lambda tensor: tensor)
        self._owned = owned
        self._held: dict[int, torch.UntypedStorage] = {}

    def _pack(self, tensor: Tensor) -> Tensor:
        self._add(tensor)
        return tensor

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._owned:
            self._held[storage.data_ptr()] = storage

    def add_all(self, value: Any) -> None:
        """Every tensor within dataclasses and lists: a pass written by hand keeps its own."""
        if isinstance(value, Tensor):
            self._add(value)
        elif isinstance(value, list | tuple):
            for each in value:
                self.add_all(each)
        elif hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                self.add_all(getattr(value, name))

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(storage.nbytes() for storage in self._held.values())


def cf_shape(config: Config, case: Case, width: int) -> CFShape:
    """Parameters, and what the loss of a few users keeps."""
    chosen = cf_module_class(case.cf_module)
    dtype = dtype_of(case.precision)
    module = chosen(width).to("cpu", dtype)
    set_dropout(module, config.run.dropout)
    slots = slots_per_user(case.history_length, config.model.candidates, chosen.task)
    encodings = torch.zeros(PROBE_USERS, slots, width, dtype=dtype, requires_grad=True)
    history = case.history_length
    if chosen.task == "ranking":
        targets = torch.zeros(PROBE_USERS, dtype=torch.int64)
    else:
        targets = torch.zeros(PROBE_USERS, slots)
    batch = Batch(
        torch.zeros(PROBE_USERS, slots, dtype=torch.int64),
        torch.ones(PROBE_USERS, slots, dtype=torch.bool),
        targets,
        history,
    )
    owned = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = _Kept(owned)
    with kept, torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
        module.loss(encodings, batch)
    held = kept.bytes + encodings.nbytes
    return CFShape(case.cf_module, sum(p.numel() for p in module.parameters()), width, held / PROBE_USERS)


def optimizer_bytes(parameters: int, weight_bytes: int, optimizer: str) -> float:
    """Fewest bytes of one update, as `bench.measure.flops.optimizer_bytes` counts them."""
    return float((2 * (1 + STATES[optimizer]) + 1) * parameters * weight_bytes)
