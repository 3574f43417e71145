"""What the fast engine can put in an encoder's place, the fastest first, and the choice among it.

A tier is taken if it does not refuse the encoder and, on a few texts of the table, leaves what the model's own forward
pass leaves. Which one was taken, and why no faster one, is said once; and again where the model is changed meanwhile so
that the tier holds no longer.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gram_core.batch import Texts
from gram_core.encoders import bucketed, general, packed
from gram_core.encoders.bucketed import BucketedEncoder
from gram_core.encoders.general import GeneralEncoder
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.probe import evaluating
from gram_core.encoders.proof import differs, few_texts
from gram_core.encoders.watch import Watch
from gram_core.protocols import ContentEncoder, ItemSource

PACKED, GENERAL, PADDED, AS_GIVEN = "packed", "general", "padded", "as given"
PARTS_IN_FLOAT32 = 1e-5
"""Rotary positions and root-mean-square norms are computed in float32 by models of any dtype."""


class FallBack(UserWarning):
    """The fast engine runs an encoder by a slower tier than its fastest."""


class Encodes(Protocol):
    """What a tier is chosen for: a `Training`, for one."""

    @property
    def encoder(self) -> ContentEncoder: ...
    @property
    def table(self) -> ItemSource: ...
    @property
    def amp_dtype(self) -> torch.dtype | None: ...
    def agreed(self, objection: str | None) -> str | None: ...


@dataclass
class Ran:
    """How the fast engine runs an encoder: `tier`, and why by no faster one (None: there is none)."""

    tier: str
    why_no_faster: str | None = None

    @property
    def sentence(self) -> str:
        """For a person, where something is to be said."""
        runs = {
            GENERAL: "its own code, on packed texts",
            PADDED: "texts are padded to the longest of a few like ones",
            AS_GIVEN: "the encoder runs as the engine eager runs it",
        }
        return f"the fast engine falls back to tier {self.tier!r} ({runs[self.tier]}): {self.why_no_faster}"


@dataclass(frozen=True)
class Tier:
    """refuses: why the tier can't run an encoder, without trying. build: the encoder's pass by this tier. differs: what
    that makes of texts otherwise than the model's own pass."""

    name: str
    refuses: Callable[[HuggingFaceEncoder, torch.dtype | None], str | None]
    build: Callable[[HuggingFaceEncoder, torch.dtype | None], PackingEncoder | BucketedEncoder]
    differs: Callable[[PackingEncoder | BucketedEncoder, Texts, torch.dtype | None], str | None]


def _build_packed(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> PackedEncoder:
    return PackedEncoder(encoder, amp_dtype)


def _build_general(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> GeneralEncoder:
    return GeneralEncoder(encoder, amp_dtype)


def _packed_differs(tried: PackingEncoder | BucketedEncoder, texts: Texts, amp_dtype: torch.dtype | None) -> str | None:
    assert isinstance(tried, PackingEncoder), "this tier's"
    device, alone = tried.encoder.model.device, tried.alone()

    def encode(texts: Texts) -> Tensor:
        return alone.encode(alone.pack(texts, max(len(texts.tokens), alone.proved_tokens)).to(device))

    return differs(encode, tried.encoder, tried.encoder, texts, amp_dtype)


def _build_padded(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> BucketedEncoder:
    return BucketedEncoder(encoder)


def _padded_differs(tried: PackingEncoder | BucketedEncoder, texts: Texts, amp_dtype: torch.dtype | None) -> str | None:
    """Evaluated, for what dropout drops is never the same twice; each length by itself."""
    apart = BucketedEncoder(tried.encoder, cost=lambda tokens: tokens)
    with evaluating(tried.encoder):
        return differs(apart, tried.encoder, tried.encoder, texts, amp_dtype, PARTS_IN_FLOAT32)


TIERS = (
    Tier(PACKED, packed.refuses, _build_packed, _packed_differs),
    Tier(GENERAL, general.refuses, _build_general, _packed_differs),
    Tier(PADDED, bucketed.refuses, _build_padded, _padded_differs),
)
"""The fastest first; below them is the encoder as it was given."""


def choose(training: Encodes) -> tuple[ContentEncoder, Ran]:
    """Its encoder by the fastest tier that holds for it."""
    encoder = training.encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        return _said(encoder, Ran(AS_GIVEN, f"the encoder is a {type(encoder).__qualname__} and no HuggingFaceEncoder"))
    texts = few_texts(training.table, encoder.text_length)
    reasons: list[str] = []
    for tier in TIERS:
        reason = tier.refuses(encoder, training.amp_dtype)
        if reason is None:
            built = tier.build(encoder, training.amp_dtype)
            reason = None if texts is None else tier.differs(built, texts, training.amp_dtype)
        reason = training.agreed(reason)
        if reason is None:
            ran = Ran(tier.name, "; ".join(reasons) or None)
            if isinstance(built, PackingEncoder) and texts is not None:
                _watch(built, tier, texts, training, ran)
            return _said(built, ran)
        reasons.append(f"{tier.name}: {reason}")
    return _said(encoder, Ran(AS_GIVEN, "; ".join(reasons)))


def _watch(built: PackingEncoder, tier: Tier, texts: Texts, training: Encodes, ran: Ran) -> None:
    """Has the tier proved again whenever the model is found changed."""

    def prove() -> str | None:
        dtype = training.amp_dtype
        return training.agreed(tier.refuses(built.encoder, dtype) or tier.differs(built, texts, dtype))

    def say(reason: str | None) -> None:
        before = ran.tier
        ran.tier = tier.name if reason is None else PADDED
        ran.why_no_faster = None if reason is None else f"{tier.name}: {reason} (changed since it was set up)"
        if ran.tier != before:
            _said(built, ran)

    built.watch = Watch(built.encoder, prove, say)


def _said(encoder: ContentEncoder, ran: Ran) -> tuple[ContentEncoder, Ran]:
    if ran.why_no_faster is not None:
        warnings.warn(ran.sentence, FallBack, stacklevel=4)
    return encoder, ran
