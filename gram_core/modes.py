"""What a training asks of a model: that dropout acts where it should, and that no part normalises by its batch."""

import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel


class IdleDropout(UserWarning):
    """Dropout that does not act."""


def tell_idle_dropout(encoder: nn.Module, model: nn.Module) -> None:
    """Warns where `model` has dropout that does not act, though the encoder around it is not evaluated: as
    `from_pretrained` hands models over. Who means that says `encoder.eval()`, or sets dropout to 0."""
    if not encoder.training:
        return
    if any(part.p > 0 and not part.training for part in model.modules() if isinstance(part, nn.Dropout)):
        warnings.warn(
            "the encoder's model is in evaluation mode, as from_pretrained leaves it: its dropout does not act; call "
            "encoder.train() to train with dropout, or encoder.eval() to train without",
            IdleDropout,
            stacklevel=4,
        )


def batch_dependent(module: nn.Module, *, as_it_is: bool = False) -> str | None:
    """The first part whose output or gradient hangs on its batch in training, by name and type; None where none does.

    as_it_is: leaves out parts that are evaluated now, and so read the statistics that they keep.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if as_it_is and not part.training and part.running_mean is not None:
                continue
            return _named(name, part)
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.scale_grad_by_freq and part.weight.requires_grad:
            return f"{_named(name, part)} with scale_grad_by_freq"
    return None


def _remedy(found: str) -> str:
    return "set that to False" if found.endswith("scale_grad_by_freq") else "put a LayerNorm in its place"


def _named(name: str, part: nn.Module) -> str:
    return f"{name}, a {type(part).__name__}" if name else f"a {type(part).__name__}"


def refuse_parallel(module: object, what: str) -> None:
    """Raises TypeError for what spreads a module, `what` in words, over devices: it lacks what the module has."""
    if isinstance(module, DistributedDataParallel | nn.DataParallel):
        raise TypeError(
            f"{what} is wrapped in {type(module).__name__}: give the module inside; several processes train together "
            "by gram_core.distributed, or in your own loop by gram_core.encode within the module that is wrapped"
        )


def refuse_batch_statistics(module: nn.Module, what: str, *, as_it_is: bool = False) -> None:
    """Raises ValueError for a module, `what` in words, that `batch_dependent` finds something in."""
    found = batch_dependent(module, as_it_is=as_it_is)
    if found is not None:
        raise ValueError(
            f"{what} normalises by its batch ({found}), so that an encoding or its gradient depends on which texts are "
            f"encoded together, and neither deduplication nor chunks leave gradients as they are; {_remedy(found)}"
        )
