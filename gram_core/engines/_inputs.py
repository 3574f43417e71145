"""What a captured graph reads, flattened to named tensors on the host and put together again on the device.

B users, S slots, n rows of encodings (capacity), T tokens (capacity), d width.
"""

import math
from collections.abc import Mapping
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.batch import Batch, Texts
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.engines._captured import Capacities
from gram_core.kernels.segments import gather_rows
from gram_core.packing import PackedTexts, readers
from gram_core.training import Gather

PACKED = ("tokens", "positions", "text_of", "offsets", "groups")
SMALLEST_ROWS = 16
"""What capacities for encodings differ by at least."""


class Packer:
    """Packs texts into capacities that repeat, so that few graphs serve many batches."""

    def __init__(self, encoder: PackingEncoder):
        self._encoder = encoder
        self._tokens, self._rows = Capacities(256), Capacities(SMALLEST_ROWS)
        self._pairs: list[tuple[int, int]] = []

    def pack(self, texts: Texts, rows: int | None = None, tokens: int = 0) -> dict[str, Tensor]:
        """The texts' inputs. rows: so many encodings, for this many tokens at least; None: whatever fits the texts."""
        tokens, count = max(1, len(texts.tokens), tokens), max(1, len(texts))  # none pass the encoder all the same
        sizes = self.capacities(tokens, count) if rows is None else (self._tokens.fit(tokens), rows)
        packed = self._encoder.pack(texts, *sizes)
        return dict(zip(PACKED, packed.tensors(), strict=True))

    def capacities(self, tokens: int, texts: int) -> tuple[int, int]:
        """Those for so many tokens of so many texts: a pair in use where one fits.

        A new pair leaves room for an eighth more texts, whose rows cost next to nothing beside their tokens.
        """
        most = max(2 * texts, texts + 2 * SMALLEST_ROWS)
        fitting = [pair for pair in self._pairs if self._tokens.fits(tokens, pair[0]) and texts <= pair[1] <= most]
        if fitting:
            return min(fitting)
        self._pairs.append((self._tokens.fit(tokens), self._rows.fit(texts + texts // 8)))
        return self._pairs[-1]


class NewItemsPacker(Packer):
    """For texts that get fewer from call to call, as an interval's new items do: sizes far apart, so that soon none is
    new, each for tokens and texts together. The fifth of the tokens that this adds has no backward pass."""

    SMALLEST, GROWTH, ROOM = 256, 1.5, 1.25

    def __init__(self, encoder: PackingEncoder):
        super().__init__(encoder)
        self._texts_per_token: float | None = None

    def capacities(self, tokens: int, texts: int) -> tuple[int, int]:
        """The least size that holds both; what the first call holds says how many texts there are to so many tokens."""
        if self._texts_per_token is None:
            self._texts_per_token = self.ROOM * texts / max(tokens, 1)
        size = float(self.SMALLEST)
        while size < tokens or size * self._texts_per_token < texts:
            size *= self.GROWTH
        return 64 * math.ceil(size / 64), 16 * math.ceil(size * self._texts_per_token / 16)


def packed_texts(inputs: Mapping[str, Tensor]) -> PackedTexts:
    """What `Packer.pack` flattened."""
    return PackedTexts(*(inputs[name] for name in PACKED))


def rows_of(inputs: Mapping[str, Tensor]) -> int:
    """n: rows of encodings that packed inputs have room for."""
    return len(inputs["offsets"]) - 1


def filled_up(rows: Tensor, count: int) -> Tensor:
    """Rows [U, d] with zeros behind, [count, d]; an empty text encodes to zeros as well."""
    return F.pad(rows, (0, 0, 0, count - len(rows)))


def slot_inputs(batch: Batch, slot_rows: Tensor, rows: int) -> dict[str, Tensor]:
    """A batch, and which of `rows` encodings each of its slots reads (slot_rows [B, S]).

    Raises TypeError for a batch with fields of its own, which the batch of `batch_of` would lack.
    """
    more = [part.name for part in fields(batch) if part.name not in Batch.__dataclass_fields__]
    if more:
        raise TypeError(
            f"captured steps read the fields of Batch alone, and a {type(batch).__name__} has {', '.join(more)} "
            "besides: use the engine eager, or gram_core.encode in your own loop"
        )
    readings = readers(slot_rows, rows)
    return {
        "slot_rows": readings.slot_rows,
        "slots": readings.slots,
        "reader_offsets": readings.offsets,
        "items": batch.items.to(torch.int32),
        "mask": batch.mask.to(torch.int32),
        "targets": batch.targets,
        **({} if batch.weight is None else {"weight": batch.weight}),
    }


def batch_of(inputs: Mapping[str, Tensor], history_length: int) -> Batch:
    """The batch that `slot_inputs` flattened."""
    items, mask = inputs["items"].long(), inputs["mask"].bool()
    return Batch(items, mask, inputs["targets"], history_length, weight=inputs.get("weight"))


def gather_of(inputs: Mapping[str, Tensor]) -> Gather:
    """How its slots read encodings [n, d]: the backward sums each row's readers in a fixed order."""
    shape = inputs["items"].shape

    def gather(encodings: Tensor) -> Tensor:
        if not shape.numel():  # a process without users
            return F.embedding(inputs["slot_rows"].long().view(shape), encodings)
        rows = gather_rows(encodings, inputs["slot_rows"], inputs["slots"], inputs["reader_offsets"])
        return rows.view(*shape, encodings.shape[1])

    return gather
