"""How torch compiles a layer: what it keeps for the backward pass, and where joined tensors are written.

Of torch's compiler this uses what has no public face: which operators a partition keeps, and how one is lowered.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import torch.fx.experimental._config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.utils.checkpoint import CheckpointPolicy

from gram_core.encoders._preparation_pass import PreparingAttention
from gram_core.encoders._rejoined import rejoin
from gram_core.kernels import adapted_linear, text_attention

VARIANTS = 64
"""Kinds of layers (windows, norms left out, gradients or none) that one compiled function is made for at most: each
takes seconds to compile. Layers of further kinds are run uncompiled (`LayerCalls`)."""
TooManyVariants = torch._dynamo.exc.FailOnRecompileLimitHit
"""Raised by a compiled function before it runs anything, where it is to be made for one more than `VARIANTS`."""
NEVER_AGAIN = (text_attention.OPERATOR, adapted_linear.OPERATOR)
"""Operators of ours that take long, which a partition of a layer into forward and backward does not know."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for inputs of any size."""
    passes: dict[str, Any] = {"pre_grad_custom_pass": PreparingAttention(), "joint_custom_post_pass": _JointPass()}
    return torch.compile(function, dynamic=True, options=passes)


@contextmanager
def compiling() -> Iterator[None]:
    """Within, a layer keeps for its backward pass what products and attention make, and computes the rest again: what
    is norms, rotations and gates of these is fused with what reads it, and half of what would be kept. Layers of one
    kind share one compiled function, which says `TooManyVariants` and does not silently give up on the ninth."""
    keeps_little = {
        "ban_recompute_used_far_apart": False,
        "ban_recompute_long_fusible_chains": False,
        "ban_recompute_materialized_backward": False,
        "ban_recompute_not_in_allowlist": False,
    }
    variants = torch._dynamo.config.patch(recompile_limit=VARIANTS, fail_on_recompile_limit_hit=True)
    shapes: Any = torch.fx.experimental._config
    sizes = shapes.patch(use_duck_shape=False)  # equal ones at first need not stay equal
    numbers = torch._dynamo.config.patch(specialize_float=True)  # an adapter's scale as a variable is traced twice
    with torch._functorch.config.patch(keeps_little), variants, sizes, numbers, _joining_in_place():
        yield


class _JointPass(CustomGraphPass):
    """Has the partition of a layer into forward and backward keep what `NEVER_AGAIN` makes, where that is read.

    And nothing copied that is joined as it lies (`_rejoined`).
    """

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Marks and rewrites a layer's joint graph."""
        rejoin(graph)
        for node in graph.nodes:
            if node.target in NEVER_AGAIN:
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE

    def uuid(self) -> str:
        """For torch's cache of compiled graphs: what this does, and `_joining_in_place`."""
        return "gram_core keeps attention and adapted linears, rejoins, joins in place, 6"


@contextmanager
def _joining_in_place() -> Iterator[None]:
    """Within, parts that are joined for a product are each computed where they belong in what is joined.

    Otherwise one kernel computes every part for every column and picks: of a gated activation's two gradients,
    [T, 2 x inner], each twice, which took 1.7 times as long on an H100 (torch 2.11, ModernBERT).
    """
    from torch._inductor import ir, lowering

    own = lowering.lowerings[torch.ops.aten.cat.default]

    def join(inputs: Sequence[Any], dim: int = 0) -> Any:
        if len(inputs) < 2 or not _read_by_products() or len({part.get_dtype() for part in inputs}) > 1:
            return own(inputs, dim)
        dim = dim + len(inputs[0].get_size()) if dim < 0 else dim
        return ir.TensorBox(ir.ConcatKernel.create(inputs, dim))

    lowering.lowerings[torch.ops.aten.cat.default] = join
    try:
        yield
    finally:
        lowering.lowerings[torch.ops.aten.cat.default] = own


def _read_by_products() -> bool:
    """Whether no reader of what is lowered now computes element by element."""
    from torch._inductor.utils import is_pointwise_use
    from torch._inductor.virtualized import V

    return not any(is_pointwise_use(reader) for reader in V.current_node.users)
