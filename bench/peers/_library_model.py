"""An encoder as the library sentence-transformers runs it: its modules, its way to pad or pack, our weights.

The modules are the library's `Transformer`, `Pooling`, `Dense` and `Normalize` around the encoder's own model and head,
whose parameters they share; a pooling that the library does not have is the encoder's. Texts come as token ids, so that
its tokenizer has nothing to do. It packs texts where flash attention is installed and fits, and pads them elsewhere.
n texts, L tokens padded, T tokens packed, d width.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gram_core.batch import Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import ClsPooling, Dense, LastPooling, MaxPooling, MeanPooling, Normalize

ATTENTION = "flash_attention_2"
"""What a model is asked for where the library can pack: it does so for no other attention than flash attention's."""
POOLINGS: dict[type[nn.Module], str] = {
    MeanPooling: "mean",
    ClsPooling: "cls",
    LastPooling: "lasttoken",
    MaxPooling: "max",
}
"""By our modules, the library's names."""

Features = dict[str, Any]
"""What the library's modules hand from one to the next."""


def why_padded(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> str | None:
    """Why the library pads this encoder's texts here, in a few words; None where it can pack them."""
    model: Any = encoder.model
    dtype = amp_dtype or model.dtype
    if not (getattr(model, "_supports_flash_attn", False) and model.is_backend_compatible()):
        return f"transformers has no flash attention for the model type {model.config.model_type}"
    if type(encoder.pooling) not in POOLINGS:
        return "its pooling, which is not the library's, reads padded rows"
    if model.device.type != "cuda":
        return "flash attention needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash attention computes in bf16 and float16, not in {str(dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    return None


class LibraryModel(nn.Module):
    """The encoder as the library's model, in the encoder's place.

    chunk_tokens: the most real tokens of a call, None for no limit. padded: why texts are padded, None where they are
    packed.
    """

    def __init__(self, encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None, chunk_tokens: int | None = None):
        super().__init__()
        self.width, self.dtype = encoder.width, encoder.model.dtype
        self._pad_token_id, self._chunk_tokens = encoder.pad_token_id, chunk_tokens
        self.padded = why_padded(encoder, amp_dtype)
        self._given_attention: Any = encoder.model.config._attn_implementation
        if self.padded is None:
            encoder.model.set_attn_implementation(ATTENTION)
        with _modes_kept(encoder):
            self.pipeline = _library().SentenceTransformer(modules=_modules(encoder), device=str(encoder.model.device))
        self._transformer: Any = self.pipeline[0]
        if self.padded is None and not self._transformer.can_flatten_inputs:
            encoder.model.set_attn_implementation(self._given_attention)
            self.padded = "the library does not pack for this model"

    @contextlib.contextmanager
    def as_given(self) -> Iterator[None]:
        """Within, the encoder's model has the attention that it came with."""
        model = self._transformer.model
        if self.padded is not None:
            yield
            return
        model.set_attn_implementation(self._given_attention)
        try:
            yield
        finally:
            model.set_attn_implementation(ATTENTION)

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d] of texts on the host."""
        return self.encode(self.features(texts))

    def encode(self, features: Features) -> Tensor:
        """Encodings [n, d] of `features`, which the modules add to; in the dtype of the weights."""
        found: Tensor = self.pipeline(features)["sentence_embedding"]
        return found.to(self.dtype)

    def features(self, texts: Texts) -> Features:
        """What the library's collators make of texts on the host; on the model's device."""
        made = self._padded_features(texts) if self.padded is not None else self._packed_features(texts)
        device = self._transformer.model.device
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in made.items()
        }

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens computed for each text, int64 [n]: padded ones as long as the longest of their mini-batch."""
        if self.padded is None or not len(lengths):
            return lengths
        bounds = _mini_batches(lengths, self._chunk_tokens)
        return torch.cat([lengths[start:stop].max().expand(stop - start) for start, stop in bounds])

    def _padded_features(self, texts: Texts) -> Features:
        ids, mask = texts.padded(int(texts.lengths.max()) if len(texts) else 0, self._pad_token_id)
        return {"input_ids": ids, "attention_mask": mask.to(torch.int64)}

    def _packed_features(self, texts: Texts) -> Features:
        """[1, T] each, as transformers' `DataCollatorWithFlattening` writes them, with boundaries int32 [n + 1]."""
        lengths, boundaries = texts.lengths, texts.offsets.to(torch.int32)
        longest = int(lengths.max()) if len(texts) else 0
        places = torch.arange(len(texts.tokens)) - torch.repeat_interleave(texts.offsets[:-1], lengths)
        return {
            "input_ids": texts.tokens[None],
            "position_ids": (places + self._transformer._flatten_position_offset)[None],
            "seq_idx": torch.repeat_interleave(torch.arange(len(texts), dtype=torch.int32), lengths)[None],
            "cu_seq_lens_q": boundaries,
            "cu_seq_lens_k": boundaries,
            "max_length_q": longest,
            "max_length_k": longest,
        }


def _mini_batches(lengths: Tensor, tokens: int | None) -> list[tuple[int, int]]:
    """(start, stop) of the library's mini-batches of texts of these lengths [n]: in turn, while they fit."""
    bounds, start, taken = [], 0, 0
    for place, length in enumerate(lengths.tolist()):
        if tokens is not None and place > start and taken + length > tokens:
            bounds.append((start, place))
            start, taken = place, 0
        taken += length
    return [*bounds, (start, len(lengths))]


@contextlib.contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    """Training and evaluation set it afterwards: the library decides on that for what it loads."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _modules(encoder: HuggingFaceEncoder) -> list[nn.Module]:
    library = _library()
    name = POOLINGS.get(type(encoder.pooling))
    pooling = library.OwnPooling(encoder) if name is None else library.Pooling(encoder.hidden_width, name)
    return [library.Given(encoder.model), pooling, *map(_part_of_head, encoder.head or ())]


def _part_of_head(part: nn.Module) -> nn.Module:
    """The library's module with our parameters. Raises TypeError for a part that it has none for."""
    library = _library()
    if isinstance(part, Normalize):
        normalize: nn.Module = library.Normalize()
        return normalize
    if not isinstance(part, Dense):
        raise TypeError(f"sentence-transformers has no module for {type(part).__name__}")
    linear = part.linear
    dense: Any = library.Dense(
        linear.in_features, linear.out_features, linear.bias is not None, part.activation, use_residual=part.adds_input
    )
    dense.linear = linear
    if hasattr(part, "residual"):
        dense.residual = part.residual
    return dense


@cache
def _library() -> Any:
    """What is used of the library, and two modules made of it; imports it."""
    from types import SimpleNamespace

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Given(modules.Transformer):
        """The library's first module around a model that is there already, where it would load one from a folder."""

        def __init__(self, model: PreTrainedModel):
            self.__dict__["given"] = model
            with tempfile.TemporaryDirectory() as folder:
                nothing = Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]"))
                PreTrainedTokenizerFast(tokenizer_object=nothing, pad_token="[PAD]").save_pretrained(folder)
                super().__init__(folder)

        def _load_config(self, *_: Any, **__: Any) -> Any:
            return self.__dict__["given"].config, False

        def _load_model(self, *_: Any, **__: Any) -> PreTrainedModel:
            return self.__dict__["given"]

    class OwnPooling(nn.Module):
        """The encoder's pooling, of padded states."""

        def __init__(self, encoder: HuggingFaceEncoder):
            super().__init__()
            self.pooling, self.dtype = encoder.pooling, encoder.model.dtype

        def forward(self, features: Features) -> Features:
            states, mask = features["token_embeddings"], features["attention_mask"].bool()
            with torch.autocast(states.device.type, enabled=False):
                features["sentence_embedding"] = self.pooling(states.to(self.dtype), mask)
            return features

    return SimpleNamespace(
        SentenceTransformer=SentenceTransformer,
        Pooling=modules.Pooling,
        Dense=modules.Dense,
        Normalize=modules.Normalize,
        Given=Given,
        OwnPooling=OwnPooling,
    )
