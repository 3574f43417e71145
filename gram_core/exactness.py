"""How far two gradients, or two sets of parameters, lie apart.

Used by `gram-bench verify` and by the tests: relative error per parameter, and guards against passing on
nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode


def gradients(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of every parameter's gradient, by module and parameter name; a parameter without one is left out."""
    return {
        f"{prefix}.{name}": parameter.grad.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


class _Widening(TorchFunctionMode):
    """float64 for whatever asks for float32; hooks that are registered meanwhile run like that too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        elif func is torch.Tensor.register_hook:
            args = (args[0], _widened(args[1]))
        widened = [torch.float64 if value is torch.float32 else value for value in args]
        named = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*widened, **named)


class Float64Throughout(AbstractContextManager[None]):
    """Within, whatever asks for float32 gets float64.

    Some encoders compute parts in float32 whatever their weights are (rotary positions, root-mean-square norms).
    What is summed there in another order then differs by float32's rounding, which would drown every comparison.
    A backward pass, for which torch puts such modes aside, is covered where hooks or checkpoints run an encoder again.
    """

    def __enter__(self) -> None:
        self._stack = ExitStack()
        saving: Any = torch.autograd.graph.saved_tensors_hooks
        before = saving.__init__

        def init(hooks: Any, pack_hook: Callable[..., Any], unpack_hook: Callable[..., Any]) -> None:
            before(hooks, pack_hook, _widened(unpack_hook))

        saving.__init__ = init
        self._stack.callback(setattr, saving, "__init__", before)
        self._stack.enter_context(_Widening())

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]


def _widened(hook: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _Widening():
            return hook(*args, **kwargs)

    return run


class GradientRecorder(Optimizer):
    """An optimizer that writes gradients down and moves nothing: what a method's step hands over, clipping included."""

    def __init__(self, module: nn.Module):
        super().__init__(list(module.parameters()), {})
        self._named = dict(module.named_parameters())
        self.last: dict[str, Tensor] = {}
        """Gradients of the latest step by parameter name, copies; a parameter without one is left out."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Replaces `last`."""
        self.last = {name: p.grad.detach().clone() for name, p in self._named.items() if p.grad is not None}


def parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of every parameter, by module and parameter name."""
    return {
        f"{prefix}.{name}": parameter.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def relative_errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """|found - expected| / scale per name, in float64.

    The scale is |expected|, but at least 1e-4 of the largest norm among them: where a gradient is small because
    its terms cancel (the bias of attention keys cancels whole), its rounding is that of the terms, about 1e-15 of
    the largest norm, and would be no relative error of its own. A wrong method errs by 1 and not by 1e-6.
    Raises ValueError where the names differ: a parameter that has a gradient on one side only.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"only one side has {', '.join(sorted(found.keys() ^ expected.keys()))}")
    norms = {name: float(torch.linalg.vector_norm(value.double())) for name, value in expected.items()}
    floor = 1e-4 * max(norms.values(), default=0.0)
    return {
        name: _norm(found[name].double() - expected[name].double()) / max(norms[name], floor, 1e-300)
        for name in expected
    }


def total_norm(values: Iterable[Tensor]) -> float:
    """The Euclidean norm of all of them together, float64."""
    return sum(_norm(value.double()) ** 2 for value in values) ** 0.5


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value))
