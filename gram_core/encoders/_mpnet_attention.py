"""MPNet's attention on packed texts: its library's class looks up none, and adds a bias by relative position.

T tokens packed, A heads, D head width, R the bias's reach.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mpnet import modeling_mpnet

from gram_core.encoders._own_attention import attend
from gram_core.kernels.text_attention import Rules


@contextmanager
def attending(model: PreTrainedModel, block: int | None, text_length: int) -> Iterator[None]:
    """Within, MPNet's layers attend to packed texts of up to `text_length` tokens."""
    encoder: Any = model.get_submodule("encoder")
    kind: Any = modeling_mpnet.MPNetSelfAttention
    own = kind.forward

    def bias(hidden: Tensor) -> Tensor:
        """What is added to a score, by the key's position less the query's: [A, 2R + 1]."""
        distances = torch.arange(1 - text_length, text_length, device=hidden.device)
        return encoder.relative_attention_bias(encoder.relative_position_bucket(distances)).t()

    kind.forward = _forward(block)
    vars(encoder)["compute_position_bias"] = bias
    try:
        yield
    finally:
        del vars(encoder)["compute_position_bias"]
        kind.forward = own


@cache
def _forward(block: int | None) -> Callable[..., tuple[Tensor]]:
    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor]:
        """hidden_states [1, T, d] -> [1, T, d]."""
        if self.training and self.dropout.p:
            raise ValueError("its attention drops, which needs padded rows; set its dropout to 0 for packed texts")
        rows = hidden_states[0]
        q, k, v = (
            linear(rows).view(rows.shape[0], self.num_attention_heads, self.attention_head_size)
            for linear in (self.q, self.k, self.v)
        )
        rules = Rules(scale=self.attention_head_size**-0.5)
        return (self.o(attend(q, k, v, attention_mask, block, rules, position_bias).flatten(1))[None],)

    return forward
