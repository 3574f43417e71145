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
from gram_core.encoders.habits import habits
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.probe import evaluating
from gram_core.encoders.proof import differs, few_texts
from gram_core.encoders.watch import Objection, Watch
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
    found = habits(tried.encoder, tried.encoder, texts, amp_dtype)
    if found.keeps is not None:
        return found.keeps
    if found.draws:
        return "its pass draws random numbers, as dropout does, and packed texts would draw others"
    device, alone = tried.encoder.model.device, tried.alone()

    def encode(texts: Texts) -> Tensor:
        return alone.encode(alone.pack(texts, max(len(texts.tokens), alone.proved_tokens)).to(device))

    reason = differs(encode, tried.encoder, tried.encoder, texts, amp_dtype)
    padding = tried.encoder.pad_token_id
    if reason is not None and bool((texts.tokens == padding).any()):
        return (
            f"{reason}, and one of the texts holds the id of padding, {padding}, by which some families count positions"
        )
    return reason


def _build_padded(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None) -> BucketedEncoder:
    return BucketedEncoder(encoder)


def _padded_differs(tried: PackingEncoder | BucketedEncoder, texts: Texts, amp_dtype: torch.dtype | None) -> str | None:
    """Evaluated, for what dropout drops is never the same twice; each length by itself."""
    keeps = habits(tried.encoder, tried.encoder, texts, amp_dtype).keeps
    if keeps is not None:
        return keeps
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
    texts = few_texts(training.table, encoder.text_length, encoder.pad_token_id)
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

    def prove() -> Objection | None:
        dtype, runs = training.amp_dtype, TIERS[-1]
        why = training.agreed(tier.refuses(built.encoder, dtype) or tier.differs(built, texts, dtype))
        if why is None:
            return None
        against = runs.refuses(built.encoder, dtype) or runs.differs(runs.build(built.encoder, dtype), texts, dtype)
        return Objection(why, training.agreed(against))

    def say(objection: Objection | None) -> None:
        before = ran.tier
        ran.tier, ran.why_no_faster = tier.name, at_set_up
        if objection is not None:
            ran.tier = PADDED if objection.against_runs is None else AS_GIVEN
            reasons = [f"{tier.name}: {objection.why} (changed since it was set up)"]
            reasons += [f"{PADDED}: {objection.against_runs}"] if objection.against_runs is not None else []
            ran.why_no_faster = "; ".join(reasons)
        if ran.tier != before and objection is not None:
            _said(built, ran)

    at_set_up = ran.why_no_faster

    built.watch = Watch(built.encoder, prove, say)


def _said(encoder: ContentEncoder, ran: Ran) -> tuple[ContentEncoder, Ran]:
    if ran.why_no_faster is not None:
        warnings.warn(ran.sentence, FallBack, stacklevel=4)
    return encoder, ran
