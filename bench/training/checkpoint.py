"""A training between two steps, as one safetensors file: tensors by name, and everything else as JSON in its header.

The file is replaced in one step, after its content is on the disk: whenever the machine goes, a whole checkpoint is
there, the new one or the one before.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bench.results import files, store
from bench.training.plan import unfinished
from gram_core.methods._base import MethodBase
from gram_core.protocols import Stateful
from gram_core.training import Training

FORMAT = 1
_FACTS = "gram-bench"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """tensors: on the host or not. facts: what JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file and returns when the new one is on the disk; raises store.UnwritableResults."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {_FACTS: json.dumps({"format": FORMAT, **checkpoint.facts})}
    with files.replacing(path, durable=True, fresh=unfinished(path)) as fresh:
        try:
            save_file(tensors, fresh, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, on the host; None where there is none. Raises store.ResultsError where it can't be read."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_FACTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise store.ResultsError(f"{path}: not a checkpoint ({error}); remove it to train this line anew.") from error
    if facts["format"] != FORMAT:
        raise store.ResultsError(f"{path}: checkpoint format {facts['format']}, this program reads {FORMAT}.")
    return Checkpoint(tensors, facts)


def of(method: MethodBase, training: Training) -> Checkpoint:
    """Everything that the next steps of a method with nothing pending depend on, the position in the data excepted."""
    tensors = dict(_weights(training))
    for name, optimizer in _optimizers(training):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    tensors["random.host"] = torch.get_rng_state()
    if training.device.type == "cuda":
        tensors["random.device"] = torch.cuda.get_rng_state(training.device)
    if isinstance(method, Stateful):
        tensors |= {f"method.{name}": tensor for name, tensor in method.state().items()}
    return Checkpoint(tensors, {name: scheduler.last_epoch for name, scheduler in _schedulers(training)})


def kept(method: MethodBase, training: Training) -> Checkpoint:
    """The same as a copy on the host, which further steps leave as it is."""
    now = of(method, training)
    return Checkpoint({name: tensor.detach().cpu().clone() for name, tensor in now.tensors.items()}, now.facts)


def restore(checkpoint: Checkpoint, method: MethodBase, training: Training) -> None:
    """Makes a freshly built method the one that `of` was taken of."""
    for name, optimizer in _optimizers(training):
        state: dict[int, dict[str, Tensor]] = {}
        for place, tensor in _below(checkpoint.tensors, name).items():
            number, _, key = place.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    _go_back(checkpoint, method, training)


def rewind(checkpoint: Checkpoint, method: MethodBase, training: Training) -> None:
    """Undoes the steps since `kept`, in the tensors that the method has now: steps captured meanwhile go on to hold.

    State that an optimizer did not have yet becomes zero, which is what SGD's, Adam's and AdamW's begins with.
    """
    with torch.no_grad():
        for name, optimizer in _optimizers(training):
            for number, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        before = checkpoint.tensors.get(f"{name}.{number}.{key}")
                        value.copy_(torch.zeros_like(value) if before is None else before)
    _go_back(checkpoint, method, training)


def _go_back(checkpoint: Checkpoint, method: MethodBase, training: Training) -> None:
    """All but the optimizers' own state."""
    tensors = checkpoint.tensors
    with torch.no_grad():
        for name, weight in _weights(training):
            weight.copy_(tensors[name])
    for name, scheduler in _schedulers(training):
        _wind(scheduler, checkpoint.facts[name])
    if isinstance(method, Stateful):
        method.restore(_below(tensors, "method"))
    torch.set_rng_state(tensors["random.host"])
    if training.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.device"], training.device)


def fingerprint(training: Training) -> str:
    """SHA-256 over every parameter and buffer: equal for trainings that ended in the same bits."""
    digest = hashlib.sha256()
    for name, weight in _weights(training):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights(training: Training) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of encoder and CF module; an encoder need not be a module, parameters are all it owes."""
    for part, module in (("encoder", training.encoder), ("cf", training.cf_module)):
        named: list[tuple[Any, Tensor]] = list(enumerate(module.parameters()))
        if isinstance(module, nn.Module):
            named = [*module.named_parameters(), *module.named_buffers()]
        yield from ((f"{part}.{name}", weight.detach()) for name, weight in named)


def _optimizers(training: Training) -> list[tuple[str, Optimizer]]:
    optimization = training.optimization
    pairs = (("encoder_optimizer", optimization.encoder_optimizer), ("cf_optimizer", optimization.cf_optimizer))
    return [(name, optimizer) for name, optimizer in pairs if optimizer is not None]


def _schedulers(training: Training) -> list[tuple[str, LambdaLR]]:
    optimization = training.optimization
    pairs = (("encoder_scheduler", optimization.encoder_scheduler), ("cf_scheduler", optimization.cf_scheduler))
    return [(name, scheduler) for name, scheduler in pairs if isinstance(scheduler, LambdaLR)]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def _wind(scheduler: LambdaLR, steps: int) -> None:
    """Sets a schedule to where it is after so many steps; a rate on the device stays the tensor that it is."""
    scheduler.last_epoch = steps
    factors = [factor(steps) for factor in scheduler.lr_lambdas]
    rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
