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
    _text_attention_triton,
    _text_preparation_triton,
    _text_tiles_triton,
    _text_walk_triton,
)
from tests.gram_core._attention import PREPARATIONS  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
ROWS, WIDE, INTEGERS, SINGLES = "*bf16", "*fp32", "*i32", ("scale", "eps", "q_eps", "k_eps")
TYPES = dict.fromkeys(["x", "residual", "out", "gradient", "also", "qkv", "q", "k", "v"], ROWS)
TYPES |= dict.fromkeys(["dout", "dqkv", "dq", "dk", "dv"], ROWS)
TYPES |= dict.fromkeys(
    ["groups", "spans", "text_of", "tokens", "positions", "offsets", "segment_of", "members", "entry_of"], INTEGERS
)
TYPES |= {"table": "*i64", "settings": "*fp64", "first_of": "*i64"}
STRIDES = [f"{of}_{by}" for of in "qkvdx" for by in ("row", "head")] + ["turn_row", "g_row"]
EVEN = ["width", "columns", "count", "partial_stride", "sum_stride", "row_stride", *STRIDES]
VARYING = ["rows", "programs", "texts", "segments", "tiles", "window", "reach", "near"]
"""From pass to pass: a kernel may make nothing of their values, or it would be compiled for each kind of them."""
TYPES |= dict.fromkeys([*EVEN, *VARYING, "heads", "places", "first_position", "ignored"], "i32")
TILES, WALKS = ("forward", "backward"), ("forward", "queries", "keys", "pairs")
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
    *[
        (kernel, {"width": 64, "columns": 64, "rows": 16, "normed": normed}, {"gradient": ROWS, "tokens": "i32"})
        for kernel in (_text_preparation_triton.prepare_kernel, _text_preparation_triton.gradient_kernel)
        for normed in (False, True)
    ],
    (_adamw_triton._adamw_kernel, {"columns": _adamw_triton.COLUMNS, "block": 2048, "repeats": 4, "aligned": True}, {}),
]


TEXT_ATTENTION = [
    *[
        (ROWS, width, kernel, block, kind)
        for width, block in ((64, 128), (128, 128), (256, 64))
        for kernel in TILES
        for kind in PREPARATIONS
    ],
    *[(ROWS, 128, "backward", 64, kind) for kind in PREPARATIONS],
    *[(ROWS, width, kernel, None, None) for width in (64, 128, 256) for kernel in WALKS[: 4 if width == 64 else 3]],
    *[(WIDE, 64, kernel, 64, kind) for kernel in TILES for kind in PREPARATIONS],
    *[(WIDE, 256, kernel, None, None) for kernel in WALKS],
]
"""With the narrowest heads a bias goes along; with wider ones two query heads share a key head."""


def built(kernel: Any, constants: dict[str, Any], types: dict[str, str], **options: int) -> Any:
    """For Hopper, told of alignment what a launch there would find."""
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
    made = triton.compile(source, target=HOPPER, options=options)
    assert made.metadata.shared <= 227 * 1024
    assert re.search(r"ld\.global\S*\.v[248]|cp\.async\.cg", made.asm["ptx"]), "a hint of alignment is lost"
    return made


@pytest.mark.parametrize(("kernel", "constants", "types"), KERNELS, ids=[kernel.__name__ for kernel, *_ in KERNELS])
def test_it_compiles_and_moves_whole_vectors(kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> None:
    built(kernel, constants, types, num_warps=4, num_stages=2)


@pytest.mark.parametrize(("dtype", "width", "name", "block", "kind"), TEXT_ATTENTION)
def test_text_attention_fits_in_the_sizes_that_it_runs_in(
    dtype: str, width: int, name: str, block: int | None, kind: str | None
) -> None:
    module = _text_walk_triton if block is None else _text_tiles_triton
    kernel, biased = getattr(module, f"{name}_kernel"), width == 64
    if block is None:
        sizes = _text_attention_triton._walk_sizes(width, 4 if dtype == WIDE else 2, name)
    else:
        sizes = _text_attention_triton._tile_sizes(width, block, name == "backward", 1 if biased else 2)
        if biased and name == "backward":
            sizes["rows"] = block
    options = {option: sizes.pop(option) for option in ("num_warps", "num_stages")}
    constants = sizes | {"grouped": 1 if biased or name == "pairs" else 2, "columns": width, "width": width}
    constants |= {
        "causal": not biased,
        "windowed": True,
        "biased": biased,
        "rotated": kind is not None,
        "normed": kind == "normed",
        "precision": "tf32x3",
    }
    constants |= {"repeats": 4 if biased or name == "pairs" else 1}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = dict.fromkeys(["q", "k", "v", "out", "dout", "dq", "dk", "dv"], dtype) | {"tokens": "i32"}
    made = built(kernel, constants, types, **options)
    print(f"{made.metadata.shared} bytes of shared memory")
