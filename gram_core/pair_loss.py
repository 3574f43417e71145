"""A loss for sentence-transformers' trainer that encodes each distinct text of a batch once.

Its own losses, the cached ones too, encode a text as often as the batch holds it: an anchor with four positives four
times. This one wraps any of them that computes its value from embeddings. The library is not imported.
B rows of a column, U distinct texts, L tokens, d width.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.deduplicated import Deduplicated
from gram_core.encoding import encode


class DeduplicatedLoss(nn.Module):
    """`loss`, with each distinct text of all columns encoded once: the same value, the same gradient.

    loss: one of sentence-transformers' losses with `model` and `compute_loss_from_embeddings`. Its cached losses bound
    memory in their own way; here chunk and keep do, as in `encode`, around the loss that they cache.
    Texts are equal where their tokens and all that comes with them are. With dropout, equal texts share one mask.
    """

    def __init__(self, loss: nn.Module, *, chunk: int | None = None, keep: int | None = None):
        super().__init__()
        if not hasattr(loss, "compute_loss_from_embeddings") or not hasattr(loss, "model"):
            raise TypeError(
                f"{type(loss).__name__} does not compute its value from embeddings; give a loss that does, "
                "such as MultipleNegativesRankingLoss"
            )
        self.loss: Any = loss
        self.chunk, self.keep = chunk, keep

    @property
    def model(self) -> Any:
        """The loss's model, by which the trainer finds that there is one to wrap (it replaces that of `loss`)."""
        return self.loss.model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Any:
        """The loss of columns of features ([B, L] each), as the trainer calls it."""
        columns = [dict(features) for features in sentence_features]
        texts, others = _joined(columns)
        sizes = [len(column["input_ids"]) for column in columns]
        ids, first = _equal_rows(texts)
        encoder = Deduplicated(
            self.loss.model,
            {name: rows[first] for name, rows in texts.items()},
            prepare=lambda batch: ({**others, **_trimmed(batch)},),
            pool=lambda output, batch: output["sentence_embedding"],
        )
        embeddings = encode(encoder, ids, chunk=self.chunk, keep=self.keep).split(sizes)
        return self.loss.compute_loss_from_embeddings(list(embeddings), labels)

    def get_config_dict(self) -> dict[str, Any]:
        """What a model card says of the loss."""
        own = self.loss.get_config_dict() if hasattr(self.loss, "get_config_dict") else {}
        return {"loss": type(self.loss).__name__, **own, "chunk": self.chunk, "keep": self.keep}


def _joined(columns: list[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All columns' rows, padded to one length, by name; and what columns say of all their rows alike."""
    for column in columns:
        mask = column.get("attention_mask")
        odd = [
            name
            for name, value in column.items()
            if isinstance(value, Tensor) and (not isinstance(mask, Tensor) or value.shape != mask.shape)
        ]
        if odd or "input_ids" not in column or column.keys() != columns[0].keys():
            named = f" ({', '.join(odd)})" if odd else ""
            raise ValueError(f"DeduplicatedLoss takes columns of padded texts alone, with the same features{named}")
    names = [name for name, value in columns[0].items() if isinstance(value, Tensor)]
    others = {name: value for name, value in columns[0].items() if name not in names}
    if any(column[name] != value for column in columns for name, value in others.items()):
        raise ValueError(f"columns differ in {', '.join(others)}: DeduplicatedLoss encodes all of them in the same way")
    longest = max(column["input_ids"].shape[1] for column in columns)
    right = all(bool(column["attention_mask"][:, 0].all()) for column in columns)
    texts = {}
    for name in names:
        parts = [column[name] for column in columns]
        missing = [longest - part.shape[1] for part in parts]
        pads = [_padding(name, column) for column in columns]
        texts[name] = torch.cat(
            [F.pad(p, (0, m) if right else (m, 0), value=v) for p, m, v in zip(parts, missing, pads, strict=True)]
        )
    return texts, others


def _padding(name: str, column: dict[str, Any]) -> int:
    """What fills up a feature: what stands where the mask is 0, or 0."""
    padded = column[name][column["attention_mask"] == 0]
    return int(padded[0]) if len(padded) and name != "attention_mask" else 0


def _equal_rows(texts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which distinct row each row is, int64 [n], and where each of the U distinct rows first stands, int64 [U]."""
    mask = texts["attention_mask"]
    compared = torch.cat([rows * mask for rows in texts.values()], 1)
    distinct, ids = torch.unique(compared, dim=0, return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    first = torch.full((len(distinct),), len(ids), device=ids.device).scatter_reduce(0, ids, places, "amin")
    return ids, first


def _trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows [n, L] without the last columns that are padding in all of them; the first ones set positions."""
    used = batch["attention_mask"].any(0).nonzero().flatten()
    stop = int(used[-1]) + 1 if len(used) else batch["attention_mask"].shape[1]
    return {name: rows[:, :stop] for name, rows in batch.items()}
