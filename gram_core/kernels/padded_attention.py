"""Attention over packed texts on a CPU: lots of texts of like length, padded to the longest, are one call of torch's.

Only attention sees the padding. T tokens packed, A heads, D head width, m texts of a lot, L its longest.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

LOTS = torch.tensor([8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384])
"""Texts up to one of these lengths, and longer than the one before, are a lot."""


def padded_attention(qkv: Tensor, offsets: Tensor, scale: float) -> Tensor:
    """Attention within each text: queries, keys and values qkv [T, 3, A, D] -> [T, A, D]; rows of no text are zeros.

    offsets: int32 [n + 1], where each text starts.
    """
    out = qkv.new_zeros(len(qkv), *qkv.shape[2:])
    for rows, real in _lots(offsets):
        heads = _attend(_heads_first(qkv[rows]), _mask(real), scale)
        out[rows[real]] = heads.transpose(1, 2)[real]
    return out


def padded_attention_backward(dout: Tensor, qkv: Tensor, offsets: Tensor, scale: float, sums: Tensor) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [1, 3 A D] get its sums over all tokens."""
    dqkv = torch.zeros_like(qkv)
    for rows, real in _lots(offsets):
        padded = torch.where(real[..., None, None], dout[rows], 0.0)
        gradients = _gradients(qkv[rows], padded, _mask(real), scale)
        dqkv[rows[real]] = torch.stack([gradient.transpose(1, 2)[real] for gradient in gradients], 1)
    torch.sum(dqkv.flatten(1), 0, dtype=sums.dtype, out=sums[0])
    return dqkv


def _lots(offsets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Per lot the token of each place [m, L], any in places that no token takes, and which ones are taken."""
    starts, lengths = offsets[:-1].long(), offsets.diff().long()
    lot_of = torch.bucketize(lengths, LOTS)
    for lot in lot_of[lengths > 0].unique():
        texts = (lot_of == lot) & (lengths > 0)
        held = lengths[texts]
        places = torch.arange(int(held.max()))
        rows = starts[texts][:, None] + places
        yield rows.clamp(max=int(offsets[-1]) - 1), places < held[:, None]


def _mask(real: Tensor) -> Tensor | None:
    return None if bool(real.all()) else real[:, None, None, :]


def _heads_first(qkv: Tensor) -> tuple[Tensor, ...]:
    """Of [m, L, 3, A, D] queries, keys and values, each [m, A, L, D]."""
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _attend(heads: tuple[Tensor, ...], mask: Tensor | None, scale: float) -> Tensor:
    q, k, v = heads
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _gradients(qkv: Tensor, dout: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, ...]:
    """The gradients of queries, keys and values, each [m, A, L, D]; the forward runs once more for what they need."""
    with torch.enable_grad():
        leaves = tuple(part.detach().requires_grad_() for part in _heads_first(qkv))
        return torch.autograd.grad(_attend(leaves, mask, scale), leaves, dout.transpose(1, 2))
