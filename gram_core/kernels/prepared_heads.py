"""What attention does to queries and keys before they meet, and to their gradients after: norms and rotary positions.

Each head of a token is divided by the root of its mean square and multiplied by a weight, if there are norms. Then the
two halves of its columns are the coordinates of D / 2 points, each of which is turned by an angle of the token's.
Written out here for a CPU, and as what the kernels are compared with. T tokens packed, A heads, D head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """weight [D], by which heads of mean square 1 are multiplied; eps is added to the mean square."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Preparation:
    """cos and sin of each token's angles [T, D / 2], and the norms of queries and of keys, or none."""

    cos: Tensor
    sin: Tensor
    norms: tuple[Norm, Norm] | None = None

    def refuses(self, heads: torch.Size) -> str | None:
        """Why heads [T, A, D] of this shape can't be prepared so; None where they can."""
        tokens, _, width = heads
        if width % 2:
            return f"heads of {width} have no two halves"
        if not self.cos.shape == self.sin.shape == (tokens, width // 2):
            return f"tables {tuple(self.cos.shape)} and {tuple(self.sin.shape)} do not turn heads {tuple(heads)}"
        if any(norm.weight.shape != (width,) for norm in self.norms or ()):
            return f"norms have other weights than {width}"
        return "what turns heads gets no gradient" if self.cos.requires_grad or self.sin.requires_grad else None

    def of_queries(self, q: Tensor) -> Tensor:
        """Queries [T, A, D] as they meet keys, computed in float32 at least and rounded once, to q's type."""
        return self._prepared(q, self.norms[0] if self.norms else None)

    def of_keys(self, k: Tensor) -> Tensor:
        """Keys likewise."""
        return self._prepared(k, self.norms[1] if self.norms else None)

    def gradients(self, parts: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The gradients of queries, of keys and, [2, D] in float32 or wider, of the norms' weights, empty without.

        Given what was prepared, and the gradients of what came of it.
        """
        norms = self.norms or (None, None)
        found = [self._back(*given) for given in zip(parts, gradients, norms, strict=True)]
        (dq, of_queries), (dk, of_keys) = found
        return dq, dk, of_queries if self.norms is None else torch.stack([of_queries, of_keys])

    def _prepared(self, x: Tensor, norm: Norm | None) -> Tensor:
        near, far, cos, sin = self._wide(x if norm is None else _unit(self._widened(x), norm)[0] * norm.weight)
        return torch.cat([near * cos - far * sin, far * cos + near * sin], -1).to(x.dtype)

    def _back(self, x: Tensor, gradient: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor]:
        near, far, cos, sin = self._wide(gradient)
        turned = torch.cat([near * cos + far * sin, far * cos - near * sin], -1)
        if norm is None:
            return turned.to(gradient.dtype), turned.new_empty(0, dtype=torch.float32)
        unit, inverse = _unit(self._widened(x), norm)
        of_unit = turned * norm.weight
        along = (of_unit * unit).mean(-1, keepdim=True)
        of_weight = (turned * unit).sum((0, 1)).to(torch.promote_types(norm.weight.dtype, torch.float32))
        return ((of_unit - unit * along) * inverse).to(gradient.dtype), of_weight

    def _wide(self, x: Tensor) -> tuple[Tensor, ...]:
        """x's near and far half [T, A, D / 2], cos and sin [T, 1, D / 2]."""
        wide = self._widened(x)
        return *wide.chunk(2, -1), self.cos[:, None].to(wide.dtype), self.sin[:, None].to(wide.dtype)

    def _widened(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(torch.promote_types(x.dtype, self.cos.dtype), torch.float32))


def _unit(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """x with rows of mean square 1, and by what each was multiplied."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    return x * inverse, inverse
