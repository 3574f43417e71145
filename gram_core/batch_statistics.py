"""Normalisation by statistics of a batch, with which an encoding is no function of its own text alone."""

from __future__ import annotations

from torch import nn


def batch_dependent(module: nn.Module, *, as_it_is: bool = False) -> str | None:
    """The first part that normalises by its batch in training, by name and type; None where none does.

    as_it_is: leaves out parts that are evaluated now, and so read the statistics that they keep.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if as_it_is and not part.training and part.running_mean is not None:
                continue
            return f"{name}, a {type(part).__name__}" if name else f"a {type(part).__name__}"
    return None


def refuse_batch_statistics(module: nn.Module, what: str, *, as_it_is: bool = False) -> None:
    """Raises ValueError for a module, `what` in words, that `batch_dependent` finds something in."""
    found = batch_dependent(module, as_it_is=as_it_is)
    if found is not None:
        raise ValueError(
            f"{what} normalises by its batch ({found}), so that an encoding depends on which texts are encoded "
            "together, and neither deduplication nor chunks leave gradients as they are; put a LayerNorm in its place"
        )
