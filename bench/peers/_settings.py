"""Settings of the peers by the peer's name, as `gram_core.methods._settings` has the methods'."""

from dataclasses import dataclass
from typing import Any, Literal

from gram_core.methods._settings import Nothing


@dataclass(frozen=True)
class CachedLayersSettings:
    """trained_layers: how many, counted from the top, are trained. store: where states are kept.

    encode_batch_tokens: the most tokens that pass the lower layers at once, None for no limit. Only bounds memory.
    """

    trained_layers: int = 2
    store: Literal["device", "host"] = "device"
    encode_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.trained_layers < 1 or self.store not in ("device", "host"):
            raise ValueError('trained_layers must be at least 1, store "device" or "host"')


@dataclass(frozen=True)
class FrozenSettings:
    """encode_batch_tokens: the most tokens encoded at once; None is no limit. Only bounds memory."""

    encode_batch_tokens: int | None = None


@dataclass(frozen=True)
class GradientCacheSettings:
    """chunk_tokens: the most tokens the encoder sees at once; None is all at once. Only bounds memory."""

    chunk_tokens: int | None = 32768


@dataclass(frozen=True)
class HistoricalEmbeddingsSettings:
    """fresh_share: part of a batch's unique items that is encoded anew, rounded up."""

    fresh_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.fresh_share <= 1:
            raise ValueError("fresh_share must be above 0 and at most 1")


@dataclass(frozen=True)
class IdsOnlySettings:
    """learning_rate: of the embedding rows; None takes the encoder's.

    Rows start small and move by about the rate per step, so that a rate that suits pre-trained weights is low here.
    """

    learning_rate: float | None = None


@dataclass(frozen=True)
class PseudoTargetRegressionSettings:
    """accumulation_steps: N."""

    accumulation_steps: int = 16

    def __post_init__(self) -> None:
        if self.accumulation_steps < 1:
            raise ValueError("accumulation_steps must be at least 1")


@dataclass(frozen=True)
class SentenceTransformersSettings:
    """chunk_tokens: the library's mini_batch_num_tokens, which it says trains fastest; as the library counts them,
    without padding. Only bounds memory."""

    chunk_tokens: int = 32768


@dataclass(frozen=True)
class SpeedyFeedSettings:
    """beta: how fast the probability of reuse grows with the steps.

    gamma: the most steps that an encoding may be old when it is reused.
    first_step: t of the first step; a short measurement takes it from the middle of a training.
    """

    beta: float = 0.002
    gamma: int = 20
    first_step: int = 0

    def __post_init__(self) -> None:
        if self.beta < 0 or self.gamma < 0 or self.first_step < 0:
            raise ValueError("beta, gamma and first_step must be at least 0")


SETTINGS: dict[str, type[Any]] = {
    "activation_checkpointing": Nothing,
    "cached_layers": CachedLayersSettings,
    "frozen": FrozenSettings,
    "gradient_cache": GradientCacheSettings,
    "gradient_cache_unique": GradientCacheSettings,
    "historical_embeddings": HistoricalEmbeddingsSettings,
    "ids_only": IdsOnlySettings,
    "pseudo_target_regression": PseudoTargetRegressionSettings,
    "sentence_transformers": SentenceTransformersSettings,
    "sentence_transformers_plain": Nothing,
    "speedyfeed": SpeedyFeedSettings,
}
