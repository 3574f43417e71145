"""Settings of the methods by the method's name. Loads without torch, so that a configuration is judged at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Nothing:
    """Nothing to set."""


@dataclass(frozen=True)
class SingleStepSettings:
    """All only bound memory; none changes the gradient.

    chunk_tokens: the most tokens the encoder sees at once.
    kept_tokens: the most tokens whose graphs are kept from forward to backward; the rest is recomputed.
    memory_budget: the most memory in use while graphs are kept, in bytes, or, up to 1, as a share of the CUDA
    device; the rest is recomputed. Both need chunk_tokens, for there is nothing to choose among in one chunk.
    """

    chunk_tokens: int | None = None
    kept_tokens: int | None = None
    memory_budget: float | None = None

    def __post_init__(self) -> None:
        if self.memory_budget is not None and self.chunk_tokens is None:
            raise ValueError("memory_budget needs chunk_tokens: graphs are kept or recomputed chunk by chunk")


@dataclass(frozen=True)
class MultiStepSettings:
    """accumulation_steps: N; resolve shares of an epoch first (`resolve_accumulation_steps`). "auto" starts at 1
    and chooses from there (`AdaptiveInterval`), which the last five settings are for.

    pseudo_target_loss, pseudo_target_rate: whose gradient moves encodings, by what rate. The loss's own "mean" and
    rate 1 are exact at N = 1. No optimizer evens out the scale of pseudo-targets: the gradient of a mean over many
    responses can move them by less than a step of the encoder's optimizer moves other items' encodings, and the
    encoder then learns little. "sum" takes the gradient of the sum over the batch's responses.
    ce_batch_tokens: the most tokens of a CE minibatch; None, or 0 where a configuration has no None, divides the
    items touched into N minibatches of like count, as the paper does.
    ce_passes: how often the encoder passes over the items touched at the interval's end.
    encode_batch_tokens: the most tokens encoded at once in phase 1 (no graph); None takes ce_batch_tokens.
    drift_limit, encoder_share: N grows while moved encodings drift less and the encoder costs more than this.
    most_steps: the largest N. cf_step_tokens: what a CF step costs, in tokens that the encoder encodes and
    back-propagates in the same time; None measures it in the first steps, for which the method needs `costs`.
    drift_items: how many items the drift is measured on.
    """

    accumulation_steps: int | Literal["auto"] = 16
    pseudo_target_loss: Literal["mean", "sum"] = "mean"
    pseudo_target_rate: float = 1.0
    ce_batch_tokens: int | None = None
    ce_passes: int = 1
    encode_batch_tokens: int | None = None
    drift_limit: float = 0.1
    encoder_share: float = 0.25
    most_steps: int | None = None
    cf_step_tokens: float | None = None
    drift_items: int = 64

    def __post_init__(self) -> None:
        if self.ce_batch_tokens is not None and self.ce_batch_tokens < 0:
            raise ValueError("ce_batch_tokens must be at least 1, or 0 for N equal minibatches")
        if (self.accumulation_steps != "auto" and self.accumulation_steps < 1) or self.ce_passes < 1:
            raise ValueError("accumulation_steps and ce_passes must be at least 1")
        if not self.pseudo_target_rate > 0 or self.pseudo_target_loss not in ("mean", "sum"):
            raise ValueError('pseudo_target_rate must be above 0, pseudo_target_loss "mean" or "sum"')


SETTINGS: dict[str, type[Any]] = {
    "e2e": Nothing,
    "e2e_unique": Nothing,
    "multi_step": MultiStepSettings,
    "single_step": SingleStepSettings,
}
