"""Optimizers as captured steps need them: counting on the device, and told of when their state is replaced."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoders.standing import StandingOptimization, can_stand
from gram_core.engines._captured import CapturedFunction
from gram_core.training import Optimization, Training


def stand(training: Training, encoder: PackingEncoder, *, summed: bool = False) -> StandingOptimization | None:
    """Has the encoder's weights stand in its compute dtype where that spares casts and the optimizer allows it.

    summed: whether a move is of several passes' gradients, summed, instead of one's.
    """
    optimization, encoder.standing = training.optimization, None
    if encoder.compute_dtype == encoder.encoder.model.dtype:
        return None
    parameters = encoder.standing_parameters()
    if parameters is None or not can_stand(optimization, parameters):
        return None
    joint = optimization.joint
    travels = None if joint is None else joint.dtype or torch.float32
    make = partial(encoder.make_standing, travels, summed)
    encoder.standing = make(None) if joint is None or summed else joint.in_peers(make)
    return StandingOptimization(**vars(optimization), standing=encoder.standing)


class Bound:
    """What captured graphs are bound to besides their inputs: the model as it was, and where parameters lie."""

    def __init__(self, training: Training, encoder: PackingEncoder):
        self._encoder = encoder
        self._state = encoder.watch and encoder.watch.state
        self.parameters = [*encoder.parameters(), *training.cf_module.parameters()]
        self._places = self._places_now()

    def holds(self) -> bool:
        """Whether all is as it was. To be asked behind `PackingEncoder.holds`, which looks at the model."""
        watch = self._encoder.watch
        return (watch is None or watch.state is self._state) and self._places_now() == self._places

    def _places_now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.parameters]


def make_capturable(optimization: Optimization, device: torch.device) -> None:
    """Optimizers count steps and read scheduled learning rates on the device, where they can."""
    for optimizer, scheduled in _optimizers(optimization):
        _count_on_device(optimizer, device, scheduled)


def forget_what_is_replaced(
    optimization: Optimization, device: torch.device, functions: Sequence[CapturedFunction]
) -> None:
    """Whenever an optimizer loads a state, which puts other tensors in place, `functions` drop their graphs."""
    for optimizer, scheduled in _optimizers(optimization):

        def loaded(optimizer: Optimizer, scheduled: bool = scheduled) -> None:
            _count_on_device(optimizer, device, scheduled)
            for function in functions:
                function.forget()

        optimizer.register_load_state_dict_post_hook(loaded, prepend=True)  # before others read where state lies


def forget_undecided(optimization: Optimization, function: CapturedFunction) -> None:
    """Drops the graphs of a step in which no process had a gradient: what is summed is agreed on in a later one."""
    if optimization.joint is not None and optimization.joint.undecided:
        function.forget()


def _optimizers(optimization: Optimization) -> list[tuple[Optimizer, bool]]:
    """Those there are, and whether a scheduler sets their learning rate."""
    pairs = (
        (optimization.encoder_optimizer, optimization.encoder_scheduler),
        (optimization.cf_optimizer, optimization.cf_scheduler),
    )
    return [(optimizer, scheduler is not None) for optimizer, scheduler in pairs if optimizer is not None]


def _count_on_device(optimizer: Optimizer, device: torch.device, scheduled: bool) -> None:
    if device.type != "cuda":
        return
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        if scheduled and not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):  # on the host where eager steps were taken before
            state["step"] = state["step"].to(device, torch.float32)
