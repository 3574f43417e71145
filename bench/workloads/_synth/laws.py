"""Laws of synthetic logs: Zipf's popularity, batches with an exact number of unique items, lognormal sizes.

B users, S slots per user, U unique items. A layout exists if and only if S <= U <= B * S: a user's S items are
distinct, and each unique item fills at least one slot and at most one per user.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def weights(items: int, exponent: float) -> NDArray[np.float64]:
    """Zipf's popularity (rank + 1) ** -exponent of `items` ranks, summing to 1."""
    popularity = np.arange(1, items + 1, dtype=np.float64) ** -exponent
    return popularity / popularity.sum()


def counts(slots: int, unique: int, most: int, exponent: float) -> Ints:
    """Slots per unique item [U]: Zipf scaled and held within 1 .. `most`, never rising with the rank, exactly `slots`.

    Requires unique <= slots <= unique * most.
    """
    if not unique <= slots <= unique * most:
        raise ValueError(f"{slots} slots cannot hold {unique} unique items with 1 to {most} slots each")
    popularity = np.log(weights(unique, exponent))
    every_item_at = -popularity[0], np.log(most) - popularity[-1]  # 1, and `most`
    return _filled(np.floor(_scaled(popularity, every_item_at, slots, 1, most)).astype(np.int64), slots, most)


def _scaled(
    logs: NDArray[np.float64], within: tuple[float, float], total: float, least: int, most: int
) -> NDArray[np.float64]:
    """exp(scale + logs) held within `least` .. `most`: by the largest scale whose sum is no more than `total`."""

    def scaled(log_scale: float) -> NDArray[np.float64]:
        return np.clip(np.exp(log_scale + logs), least, most)

    low, high = within
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).sum() <= total else (low, middle)
    return scaled(low)


def _filled(sizes: Ints, total: int, most: int) -> Ints:
    """The sizes, of which the first that have room get what `total` is more."""
    while rest := total - int(sizes.sum()):
        sizes[np.flatnonzero(sizes < most)[:rest]] += 1
    return sizes


def draw(rng: np.random.Generator, popularity: NDArray[np.float64], unique: int) -> Ints:
    """`unique` different items, drawn one after the other with these probabilities; in the order drawn.

    The largest perturbed log-probabilities are such a draw (the Gumbel trick), without a loop.
    """
    return largest(np.log(popularity) + rng.gumbel(size=len(popularity)), unique)


def largest(keys: NDArray[np.float64], number: int) -> Ints:
    """Places of the `number` largest keys, the largest first."""
    top = np.argpartition(-keys, number - 1)[:number]
    return top[np.argsort(-keys[top])]


def lay_out(rng: np.random.Generator, items: Ints, slots_of: Ints, users: int) -> Ints:
    """Slots [B, S] in which `items[k]` appears `slots_of[k]` times, never twice with one user, otherwise at random.

    Copies of an item lie side by side and position p goes to user p mod B: as no item has more than B copies, they
    go to different users, and every user gets S slots.
    """
    grouped = np.repeat(items, slots_of).reshape(-1, users).T
    return rng.permuted(grouped[rng.permutation(users)], axis=1)


def sizes(rng: np.random.Generator, number: int, total: int, sigma: float, least: int, most: int) -> Ints:
    """`number` sizes of `least` .. `most` in random order that sum to `total`: quantiles of a lognormal law.

    sigma: standard deviation of their logarithm, where no bound holds them. Raises ValueError where no such sizes are.
    """
    from scipy.special import ndtri

    if not number * least <= total <= number * most:
        raise ValueError(f"{number} sizes of {least} to {most} cannot sum to {total}")
    shape = sigma * ndtri((np.arange(number) + 0.5) / number)
    bounds = np.log(max(least, 1e-9)) - shape[-1] - 1, np.log(most) - shape[0] + 1
    exact = _scaled(shape, bounds, total, least, most)
    found = np.floor(exact).astype(np.int64)
    rest = total - int(found.sum())
    nearest = np.argsort(found - exact, kind="stable")  # the largest remainders are rounded up
    found[nearest[found[nearest] < most][:rest]] += 1
    return rng.permuted(_filled(found, total, most))  # where bounds left fewer to round than there are to give
