"""Whether items are worth sharing among ranks: encodings that are exchanged against tokens that are not encoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExchangeCosts:
    """What `deduplicate="auto"` weighs, in seconds; the same on every rank.

    token_s: of one token that passes the encoder forwards and backwards. row_s, exchange_s: of an exchange of encodings
    and of their gradients, for each row of a rank and whatever there are.
    """

    token_s: float
    row_s: float
    exchange_s: float

    def sharing_pays(self, local_tokens: int, shared_tokens: int, rows: int) -> bool:
        """Whether the slowest rank is done earlier with `shared_tokens`, after an exchange of so many rows of each
        rank, than with `local_tokens` and none."""
        return (local_tokens - shared_tokens) * self.token_s > self.exchange_s + rows * self.row_s
