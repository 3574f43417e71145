"""Gradient caching over unique items: what plain deduplication makes of it."""

from typing import ClassVar

from bench.peers.gradient_cache import GradientCache
from gram_core.batch import unique_items


class GradientCacheUnique(GradientCache):
    """Every unique item is encoded once, and once more for its gradient."""

    name: ClassVar[str] = "gradient_cache_unique"

    select = staticmethod(unique_items)
