"""A transformers model's structure rebuilt for packed texts, with its weights read from outside.

Three parts are replaced, none of which changes what is computed:
- self-attention of BERT-like layers: one projection to queries, keys and values instead of three, so that their
  gradients meet in one matrix product, then attention within each text;
- the table of positions: a product with one-hot rows, whose gradient is a product again, where an indexed sum
  would have thousands of tokens wait for the same few rows;
- the table of token types: its first row for every token, whose gradient is a plain sum.

T tokens packed, d width, A heads, D head width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from gram_core.kernels.short_attention import short_attention

ATTENTION = "gram_core_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    groups: Tensor,
    text_of: Tensor,
    block: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, on [1, A, T, D]; the packing comes along as keyword arguments."""
    qkv = torch.stack([x.flatten(0, 1).transpose(0, 1) for x in (query, key, value)], dim=1)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return short_attention(qkv, groups, text_of, scale, block).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


class FusedSelfAttention(nn.Module):
    """BERT's self-attention on packed texts, with one projection. Weights [3 d, d]: queries, keys, values."""

    def __init__(self, original: Any):
        super().__init__()
        width: int = original.query.in_features
        self.qkv = nn.Linear(width, 3 * width, device="meta")
        self.heads: int = original.num_attention_heads
        self.scale: float = original.attention_head_size**-0.5

    def forward(
        self, hidden_states: Tensor, *_: Any, groups: Tensor, text_of: Tensor, block: int, **__: Any
    ) -> tuple[Tensor, None]:
        """Hidden states [1, T, d] -> [1, T, d]."""
        qkv = self.qkv(hidden_states).view(hidden_states.shape[1], 3, self.heads, -1)
        return short_attention(qkv, groups, text_of, self.scale, block).view(hidden_states.shape), None


class OneHotTable(nn.Module):
    """An embedding table of few rows, read through a matrix product."""

    def __init__(self, weight: nn.Parameter, rows: int):
        super().__init__()
        self.weight = weight
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table for ids [1, T], all below `rows`."""
        return F.one_hot(ids, self.rows).to(self.weight.dtype) @ self.weight[: self.rows]


class FirstRow(nn.Module):
    """An embedding table of which only the first row is ever read."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        """That row for each of ids [1, T]."""
        return self.weight[0].expand(*ids.shape, -1)


@dataclass(frozen=True)
class Skeleton:
    """A model to be called with weights given by name.

    sources: for each parameter name of `model`, the parameters of the original that it is made of, joined along
    their first dimension.
    """

    model: PreTrainedModel
    sources: dict[str, tuple[nn.Parameter, ...]]

    @property
    def regions(self) -> list[nn.Module]:
        """The parts worth compiling, each called once or, the layers, all alike."""
        layers = next(module for module in self.model.modules() if isinstance(module, nn.ModuleList))
        return [self.model.get_submodule("embeddings"), *layers]


def skeleton_of(model: PreTrainedModel, compute_dtype: torch.dtype, positions: int) -> Skeleton:
    """The structure of `model`, whose parameters it shares; embeddings leave it in the compute dtype.

    positions: how many rows of the table of positions are read at most.
    """
    built = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    built.set_attn_implementation(ATTENTION)
    joined: dict[int, tuple[nn.Parameter, ...]] = {}
    for parent in list(built.modules()):
        for name, child in list(parent.named_children()):
            if all(isinstance(getattr(child, part, None), nn.Linear) for part in ("query", "key", "value")):
                fused = FusedSelfAttention(child)
                parts = [child.get_submodule(part) for part in ("query", "key", "value")]
                joined[id(fused.qkv.weight)] = tuple(part.get_parameter("weight") for part in parts)
                joined[id(fused.qkv.bias)] = tuple(part.get_parameter("bias") for part in parts)
                setattr(parent, name, fused)
            elif name == "position_embeddings" and isinstance(child, nn.Embedding):
                setattr(parent, name, OneHotTable(child.get_parameter("weight"), min(positions, child.num_embeddings)))
            elif name == "token_type_embeddings":
                setattr(parent, name, FirstRow(child.get_parameter("weight")))
    embeddings = built.get_submodule("embeddings")
    embeddings.register_forward_hook(lambda _module, _inputs, output: output.to(compute_dtype))
    sources = {name: joined.get(id(parameter), (parameter,)) for name, parameter in built.named_parameters()}
    return Skeleton(built, sources)
