"""A Hugging Face language model as content encoder, padded: the way anyone writes it first.

n texts, L = text_length, d width. Position and padding conventions (BERT counts from 0, RoBERTa and MPNet
from padding id + 1, ModernBERT rotates) are the model's own: it gets padded ids and their mask.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gram_core.batch import Texts
from gram_core.encoders._wrapped import model_within
from gram_core.encoders.pooling import Pooling, head_width, pooling_module
from gram_core.encoders.probe import is_causal
from gram_core.modes import refuse_batch_statistics, refuse_parallel

_NO_STATE_EACH = (
    "the model gives {} states for texts of {} tokens, and so none for each token, as it does with learned prompts in "
    "front of a text (prompt tuning, p-tuning): train adapters within the layers instead (LoRA, IA3, prefix tuning)"
)


class HuggingFaceEncoder(nn.Module):
    """Texts -> encodings [n, d] through `model`'s last hidden states, a pooling and, where there is one, a head.

    text_length: L, the most tokens a text may have; longer ones raise ValueError (truncate the item table).
    pooling: "auto" takes the last token's state of a causal model, which it tries, and the mean of any other.
    head: parts of `gram_core.encoders.pooling` in the order in which they are applied to pooled texts.
    Raises ValueError for batch normalisation anywhere in it: what that computes is not a function of one text.
    The model stays in the mode that it has: `from_pretrained` hands it over in evaluation mode, in which dropout does
    not act; `encoder.train()` sets that right.
    padding: "max_length" pads every text to L, as fixed-size input pipelines do; "longest" to the longest
    of the call.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        text_length: int,
        pooling: Pooling | Literal["auto"] = "mean",
        padding: Literal["max_length", "longest"] = "max_length",
        head: nn.Sequential | None = None,
    ):
        super().__init__()
        refuse_parallel(model, "the encoder's model")
        refuse_batch_statistics(model, "the encoder's model")
        if head is not None:
            refuse_batch_statistics(head, "the encoder's head")
        self.model = model
        if pooling == "auto":
            pooling = "last" if is_causal(model_within(model), pad_token_id) else "mean"
        hidden = int(model.config.hidden_size)
        self.pooling = pooling_module(pooling, hidden).to(model.device, model.dtype)
        self.head = None if head is None else head.to(model.device, model.dtype)
        self.hidden_width = hidden
        self.width = hidden if head is None else head_width(head, hidden)
        self.pad_token_id = pad_token_id
        self.text_length = text_length
        self.padding = padding

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d], in the dtype of the weights whatever autocast computes in."""
        return self.encode(texts, self._padded_length(texts.lengths))

    def encode(self, texts: Texts, padded_to: int | None) -> Tensor:
        """The same, padded to so many tokens; None to the longest text."""
        longest = int(texts.lengths.max()) if len(texts) else 0
        if longest > self.text_length:
            raise ValueError(f"a text has {longest} tokens where text_length is {self.text_length}; truncate the table")
        padded = texts.padded(longest if padded_to is None else padded_to, self.pad_token_id)
        ids, mask = (part.to(self.model.device, non_blocking=True) for part in padded)
        states = self.model(input_ids=ids, attention_mask=mask.to(torch.int64)).last_hidden_state
        if states.shape[:2] != ids.shape:
            raise ValueError(_NO_STATE_EACH.format(states.shape[1], ids.shape[1]))
        with torch.autocast(states.device.type, enabled=False):
            return self.finish(self.pooling(states.to(self.model.dtype), mask))

    def finish(self, pooled: Tensor) -> Tensor:
        """Encodings [n, d] of pooled texts, in the dtype of the weights."""
        if self.head is None:
            return pooled
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled)

    def head_parameters(self) -> list[Tensor]:
        """What is trained behind the pooling."""
        return [] if self.head is None else list(self.head.parameters())

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Padded tokens per text, int64 [n], for texts of these lengths encoded in one call."""
        return torch.full_like(lengths, self._padded_length(lengths))

    def _padded_length(self, lengths: Tensor) -> int:
        return self.text_length if self.padding == "max_length" else int(lengths.max()) if len(lengths) else 0
