"""Every Triton kernel compiles for the GPUs that this is built for, where there is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("compiled by what runs there", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from gram_core.kernels import (  # noqa: E402
    _adamw_triton,
    _column_sums_triton,
    _embedding_triton,
    _gelu_triton,
    _layer_norm_triton,
    _long_attention_triton,
    _segments_triton,
    _short_attention_triton,
)

HOPPER = GPUTarget("cuda", 90, 32)
ROWS, WIDE, INTEGERS, SINGLES = "*bf16", "*fp32", "*i32", ("scale", "eps")
TYPES = dict.fromkeys(["x", "residual", "out", "gradient", "also", "qkv", "dout", "dqkv"], ROWS)
TYPES |= dict.fromkeys(
    ["groups", "spans", "text_of", "tokens", "positions", "offsets", "segment_of", "members", "entry_of"], INTEGERS
)
TYPES |= {"table": "*i64", "settings": "*fp64", "first_of": "*i64"}
EVEN = ["width", "columns", "count", "partial_stride", "sum_stride", "row_stride"]
VARYING = ["rows", "programs", "texts", "segments"]
"""From pass to pass: a kernel may make nothing of their values, or it would be compiled for each kind of them."""
TYPES |= dict.fromkeys([*EVEN, *VARYING, "heads", "places", "first_position", "ignored"], "i32")
ATTENTION = {"width": 64, "block": 64, "precision": "tf32"}
KERNELS: list[tuple[Any, dict[str, Any], dict[str, str]]] = [
    (_layer_norm_triton._add_norm_kernel, {"block": 1024}, {}),
    (_layer_norm_triton._add_norm_backward_kernel, {"two": True, "block": 1024, "tile": 2}, {}),
    (_column_sums_triton._column_sums_kernel, {"block": 64, "tile": 32}, {"out": WIDE}),
    (_gelu_triton._gelu_kernel, {"block": 2048}, {}),
    (_gelu_triton._gelu_backward_kernel, {"block": 512, "tile": 4}, {}),
    (_embedding_triton._embed_kernel, {"typed": True, "block": 1024, "tile": 4}, {}),
    (
        _embedding_triton._embed_backward_kernel,
        {"two": True, "typed": True, "scattered": True, "block": 1024, "tile": 1},
        {},
    ),
    (_embedding_triton._position_sums_kernel, {"splits": 8, "block": 256, "tile": 8}, {"rows": WIDE}),
    (
        _segments_triton._segment_sum_kernel,
        {"mean": True, "indirect": False, "block": 256, "unroll": 8},
        {"rows": ROWS, "out": WIDE},
    ),
    (_segments_triton._spread_kernel, {"block": 1024, "tile": 4}, {}),
    (_short_attention_triton._forward_kernel, ATTENTION, {}),
    (_short_attention_triton._backward_kernel, ATTENTION, {}),
    (_long_attention_triton._forward_kernel, ATTENTION, {"tokens": "i32"}),
    (_long_attention_triton._queries_kernel, ATTENTION, {"tokens": "i32"}),
    (_long_attention_triton._keys_kernel, ATTENTION, {"tokens": "i32"}),
    (_adamw_triton._adamw_kernel, {"columns": 9, "block": 2048, "repeats": 4, "aligned": True}, {}),
]


@pytest.mark.parametrize(("kernel", "constants", "types"), KERNELS, ids=[kernel.__name__ for kernel, *_ in KERNELS])
def test_it_compiles_and_moves_whole_vectors(kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> None:
    names = kernel.arg_names
    chosen = TYPES | dict.fromkeys(SINGLES, "fp32") | types
    signature = {name: "constexpr" if name in constants else chosen.get(name, WIDE) for name in names}
    assert {name for name in (*VARYING, "tokens") if signature.get(name) == "i32"} <= set(kernel.do_not_specialize)
    aligned = [name for name, kind in signature.items() if kind.startswith("*") or (kind == "i32" and name in EVEN)]
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    built = triton.compile(source, target=HOPPER, options={"num_warps": 4, "num_stages": 2})
    assert built.metadata.shared <= 227 * 1024
    assert re.search(r"ld\.global\S*\.v[248]", built.asm["ptx"]), "element by element: a hint of alignment is lost"
