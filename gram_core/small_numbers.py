"""Distinct values and orders of numbers that are small and many, as items of a batch are: counted, not compared.

Host only; n numbers.
"""

import numpy as np
import torch
from torch import Tensor

SPARSEST = 64
"""Values per number up to which marking every value is faster than sorting the numbers."""


def distinct(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct of `numbers` int64 [n], sorted, and which of them each number is, int64 [n]."""
    least, most = (int(end) for end in torch.aminmax(numbers)) if len(numbers) else (0, 0)
    if least < 0 or most >= SPARSEST * len(numbers):
        return torch.unique(numbers, return_inverse=True)
    values = numbers.numpy()
    met = np.zeros(most + 1, dtype=bool)
    met[values] = True
    found = np.flatnonzero(met)
    places = np.empty(most + 1, dtype=np.int64)
    places[found] = np.arange(len(found))
    return torch.from_numpy(found), torch.from_numpy(places[values])


def stable_order(numbers: Tensor) -> Tensor:
    """Where each of `numbers` int64 [n] stands when sorted, equal ones in the order they come, int64 [n].

    In digits of 16 bits, which NumPy sorts by counting; raises ValueError for numbers beyond 32 bits.
    """
    values = numbers.numpy()
    narrow = values.astype(np.int32)
    if not np.array_equal(narrow, values):
        raise ValueError("numbers must fit 32 bits")
    order = np.argsort(narrow.astype(np.uint16), kind="stable")  # the lower digit
    upper = (narrow >> 16).astype(np.int16)  # the upper one, with the sign
    if len(upper) and (upper[0] != upper).any():
        order = order[np.argsort(upper[order], kind="stable")]
    return torch.from_numpy(order)
