"""Our attention behind transformers' attention interface: what models of its library call on packed texts.

A model's own code runs on one row of T tokens. Where texts begin and end travels as its attention mask, which the
library hands through to every layer as it is if it has four dimensions; so gradient checkpointing and compilation see
an input like any other. T tokens packed, A heads, K heads of keys and values, D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from gram_core.kernels.text_attention import Rules, text_attention
from gram_core.packing import PackedTexts, group_capacity, walking_tiles

IGNORED = frozenset(
    [
        "cache",
        "cache_position",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "deterministic",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "past_key_value",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "token_type_ids",
        "use_cache",
    ]
)
"""What models hand to an attention function without changing what it computes of packed texts."""


def layout_of(packed: PackedTexts) -> Tensor:
    """Where texts lie, as an attention mask, int32 [1, 1, 1, T + G + n + 1]: each token's text, groups, offsets."""
    return torch.cat([packed.text_of, packed.groups, packed.offsets])[None, None, None]


def interface_for(block: int | None) -> str:
    """The name of the attention that reads layouts of texts packed for tiles of `block` tokens."""
    name = f"packed_texts_{block or 'walking'}"
    if name not in AttentionInterface._global_mapping:
        AttentionInterface.register(name, partial(_attention, block=block))
    return name


@contextmanager
def attending(configs: list[Any], name: str) -> Iterator[None]:
    """Within, models of these configurations call the attention of that name."""
    before = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    block: int | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [1, A, T, D], key and value [1, K, T, D] -> [1, T, A, D].

    sliding_window: of as many tokens, the query's own among them, to each side that it sees.
    """
    if dropout:
        raise ValueError("its attention drops, which needs padded rows; set its dropout to 0 for packed texts")
    for name, other in others.items():
        if other is not None and name not in IGNORED:
            raise ValueError(f"its attention reads {name}, which that of packed texts does not")
    if value.shape[-1] != query.shape[-1]:
        raise ValueError("its values are of another width than its keys")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    rules = Rules(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=causal,
        window=None if sliding_window is None else sliding_window - 1,
    )
    # not [0], whose gradient is a copy
    q, k, v = (part.squeeze(0).transpose(0, 1).to(value.dtype) for part in (query, key, value))
    return attend(q, k, v, attention_mask, block, rules)[None], None


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Tensor, block: int | None, rules: Rules, bias: Tensor | None = None
) -> Tensor:
    """q [T, A, D], k and v [T, K, D] -> [T, A, D], by a layout of `layout_of`; bias: see `text_attention`."""
    numbers, tokens = layout.view(-1), q.shape[0]
    groups = 2 * walking_tiles(tokens) if block is None else group_capacity(tokens, block) + 1
    text_of, groups_of, offsets = numbers.split([tokens, groups, numbers.shape[0] - tokens - groups])
    return text_attention(q, k, v, text_of, offsets, groups_of, block, rules, bias)
