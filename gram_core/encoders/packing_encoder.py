"""What encoders on packed texts share: real tokens only, and padding where the pass holds no longer.

T tokens packed, n texts, d width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders._weights import bypassed
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed_pooling import POOLINGS
from gram_core.encoders.watch import Watch
from gram_core.packing import PackedTexts, pack
from gram_core.protocols import Room

if TYPE_CHECKING:
    from gram_core.encoders.standing import Standing


def refuses_dtype(amp_dtype: torch.dtype | None) -> str | None:
    """Why packed texts are not for a training that computes in `amp_dtype`; None where they are."""
    if amp_dtype in (None, torch.bfloat16):
        return None
    name = str(amp_dtype).removeprefix("torch.")
    return f"packed texts keep their residual sums in the compute dtype, for which {name} is not made"


def needs_padding(encoder: HuggingFaceEncoder) -> str | None:
    """What around or in the model reads padded rows, whatever its family; None: nothing."""
    if type(encoder.pooling) not in POOLINGS:
        return "its pooling reads padded rows"
    for what, module in (("the encoder", encoder), ("its pooling", encoder.pooling)):
        if (reason := bypassed(module)) is not None:
            return f"{what} has {reason}"
    if any(module.p > 0 and module.training for module in encoder.model.modules() if isinstance(module, nn.Dropout)):
        return "its dropout acts, and what it drops would hang on how texts are packed; set it to 0 for packed texts"
    return None


class PackingEncoder(nn.Module, ABC):
    """The same encodings as `encoder` (whose parameters it shares), without computing padding.

    compute_dtype: what the layers compute in. block: the attention tile that texts are packed for, see `packing.pack`.
    """

    def __init__(self, encoder: HuggingFaceEncoder, compute_dtype: torch.dtype | None, block: int | None):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        self.compute_dtype = compute_dtype or encoder.model.dtype
        self.block = block
        self.standing: Any = None
        """Where set, a `Standing` of `make_standing`: the passes read its weights and leave their gradients there."""
        self.watch: Watch | None = None
        """Where set, it says whether the pass still computes what the model does; where not, texts are padded."""
        self._read_at = 0

    @abstractmethod
    def encode(self, packed: PackedTexts) -> Tensor:
        """Encodings [n, d] of packed texts on the device, capacity rows and all."""

    @abstractmethod
    def recomputing(self) -> Self:
        """The same encoder keeping each layer's input only from forward to backward, where the layer runs again."""

    @abstractmethod
    def trained_parameters(self) -> list[Tensor]:
        """What backward passes leave gradients for, where they leave them with the parameters."""

    @abstractmethod
    def standing_parameters(self) -> list[Tensor] | None:
        """What `make_standing` has gradients for: all that learns; None where copies can't stand for that."""

    @abstractmethod
    def make_standing(self, gradient_dtype: torch.dtype | None, summed: bool, room: Room | None) -> Standing:
        """Copies in the compute dtype, see `standing`. summed: their gradients are those of several passes."""

    @property
    def proved_tokens(self) -> int:
        """How many a pass that is proved has at least."""
        return 1

    def read_again(self) -> None:
        """Follows modules that were replaced by others of their kind."""

    def read_weights_again(self) -> None:
        """Follows parameters that others were put in place of, of the same modules."""

    def alone(self) -> Self:
        """The same pass on the parameters as they are, without standing weights and unwatched."""
        shared = copy.copy(self)
        shared.standing = shared.watch = None
        shared.read_again()
        return shared

    def holds(self) -> bool:
        """Whether the pass computes what the model does, as that is now; proved again where it has changed."""
        if self.watch is None:
            return True
        holds = self.watch.holds()
        if holds and self._read_at != self.watch.changes:
            self.read_again()
            self._read_at = self.watch.changes
        return holds

    @property
    def padded(self) -> BucketedEncoder | HuggingFaceEncoder:
        """What encodes where the pass does not hold: the encoder as it was given, where runs of it would not either."""
        objection = None if self.watch is None else self.watch.objection
        if objection is not None and objection.against_runs is not None:
            return self.encoder
        return BucketedEncoder(self.encoder)

    @property
    def draws_random_numbers(self) -> bool:
        """Dropout does, for which texts are padded."""
        return not self.holds()

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Real tokens, where nothing else is computed."""
        return lengths if self.holds() else self.padded.computed_tokens(lengths)

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d] of texts on the host; on a CPU by the padded model where no text has any padding."""
        if not self.holds():
            return self.padded(texts)
        if self._without_padding(texts.lengths):
            return self.encoder.encode(texts, padded_to=None)
        if self.standing is not None:
            self.standing.copy()
        return self.encode(self.pack(texts).to(self.encoder.model.device))

    def pack(self, texts: Texts, token_capacity: int | None = None, text_capacity: int | None = None) -> PackedTexts:
        """Texts as `encode` reads them, on the host; raises ValueError for a text longer than text_length."""
        longest = int(texts.lengths.max()) if len(texts) else 0
        if longest > self.encoder.text_length:
            raise ValueError(f"a text has {longest} tokens where text_length is {self.encoder.text_length}")
        return pack(texts, self.block, self.encoder.pad_token_id, token_capacity, text_capacity)

    def _without_padding(self, lengths: Tensor) -> bool:
        """Whether the padded model computes nothing else, which is a little faster on a CPU."""
        on_cpu = self.encoder.model.device.type == "cpu"
        return on_cpu and len(lengths) > 0 and not self._recomputes and bool((lengths == lengths[0]).all())

    @property
    def _recomputes(self) -> bool:
        return False
