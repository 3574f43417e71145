"""Tiny encoders of many families in folders, as their libraries save them: random weights, a vocabulary of letters."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from bench.encoders import _base
from bench.encoders._encoding import encoding_of
from gram_core.batch import ItemTable
from gram_core.encoders.huggingface import HuggingFaceEncoder

TEXTS = (
    "Toy Story 1995 Animation Children's Comedy",
    "GoldenEye 1995 Action",
    "a",
    "Heat: the very long title of a film that nobody has ever heard of",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = SPECIAL + list(string.printable.strip()) + ["##" + sign for sign in string.printable.strip()]
ROWS = len(VOCABULARY)

_SIZES: dict[str, Any] = dict(
    vocab_size=ROWS,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=130,
    pad_token_id=0,
)
_DECODER = dict(_SIZES, num_key_value_heads=2, head_dim=8, bos_token_id=2, eos_token_id=3)
_ENDS = dict(bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
_ROBERTA = dict(_SIZES, type_vocab_size=1)
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "electra": dict(_SIZES, embedding_size=16),
    "mpnet": _SIZES,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "ibert": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "albert": dict(_SIZES, embedding_size=16),
    "distilbert": dict(vocab_size=ROWS, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=130),
    "deberta-v2": dict(
        _SIZES,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        type_vocab_size=0,
        position_buckets=16,
        share_att_key=True,
    ),
    "modernbert": dict(_SIZES, **_ENDS),
    "nomic_bert": _SIZES,
    "gte": _SIZES,
    "jina_embeddings_v3": _SIZES,
    "eurobert": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "llama": _DECODER,
    "mistral": _DECODER,
    "gemma3_text": dict(_DECODER, sliding_window=16),
    "gpt2": dict(vocab_size=ROWS, n_embd=32, n_layer=2, n_head=4, n_positions=130, bos_token_id=2, eos_token_id=3),
    "clip_text_model": dict(_SIZES, hidden_act="quick_gelu", bos_token_id=2, eos_token_id=3),
    "xlnet": dict(vocab_size=ROWS, d_model=32, n_layer=2, n_head=4, d_inner=48),
    "t5": dict(vocab_size=ROWS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "bart": dict(
        vocab_size=ROWS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=130,
        pad_token_id=0,
        **{key: _ENDS[key] for key in ("bos_token_id", "eos_token_id")},
    ),
}
"""By `model_type`: those that encode texts."""
FAMILIES = {name: sizes for name, sizes in FAMILIES.items() if name in CONFIG_MAPPING}
CAUSAL = {"qwen2", "qwen3", "llama", "mistral", "gemma3_text", "gpt2", "clip_text_model"}


def model_of(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A model of a family, with weights in which every part matters."""
    config = CONFIG_MAPPING[family](**{**FAMILIES[family], **options})
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 / parameter.shape[-1] ** 0.5 if "embed" not in name else 0.5)
    return model.eval()


def save_tokenizer(folder: Path, *, closes: bool = True, **options: Any) -> None:
    """A tokenizer of letters that opens texts with [CLS] and, unless told otherwise, closes them with [SEP]."""
    made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if closes else "[CLS] $A", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **names, **options).save_pretrained(folder)


def save(folder: Path, family: str = "bert", *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A folder with model and tokenizer, and the model."""
    model = model_of(family, seed, **options)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def edit(file: Path, **changes: Any) -> None:
    """Sets some keys of a file of JSON."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def reweigh(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Saves other weights in a file of them."""
    save_file(change(load_file(file)), file)


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> _base.LoadedEncoder:
    """The folder's encoder, without dropout."""
    return _base.load(f"path:{folder}", _base.Loading(torch.device("cpu"), dtype, dropout="off", **options))


def encoder_of(folder: Path, pooling: str = "auto", **options: Any) -> tuple[HuggingFaceEncoder, Any]:
    """The encoder that a run would build, and the texts as it would cut them."""
    encoding = encoding_of(load(folder, **options), pooling, f"path:{folder}")
    used = encoding.loaded
    length = min(used.longest_text, 128)
    encoder = HuggingFaceEncoder(
        used.model.eval(),
        pad_token_id=used.pad_token_id,
        text_length=length,
        pooling=encoding.pooling,
        padding="longest",
        head=encoding.head,
    )
    assert used.tokenizer is not None
    table = ItemTable.from_lists(used.tokenizer.encode(TEXTS)).truncated(length, used.closing_token_id)
    return encoder, table.texts(torch.arange(len(TEXTS)))


def encoded(folder: Path, pooling: str = "auto", **options: Any) -> Tensor:
    """Encodings of the texts, as a run would compute them."""
    encoder, texts = encoder_of(folder, pooling, **options)
    with torch.no_grad():
        found: Tensor = encoder(texts)
    return found


def states_of(model: Any, text: list[int]) -> Tensor:
    """A model's last states of one text."""
    with torch.no_grad():
        ids = torch.tensor([text])
        found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    return found
