"""End-to-end training on unique items: plain deduplication, back-propagated through the gather in one graph."""

from typing import ClassVar

from gram_core.batch import unique_items
from gram_core.methods.e2e import E2E


class E2EUnique(E2E):
    """What deduplication gives without GRAM: one autograd graph from loss to encoder."""

    name: ClassVar[str] = "e2e_unique"
    distributes: ClassVar[bool] = True

    select = staticmethod(unique_items)
