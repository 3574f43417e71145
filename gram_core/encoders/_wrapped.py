"""The model of transformers within what peft and torch.compile put around it, which hands calls on to it."""

import sys
from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from gram_core.encoders._weights import bypassed


def model_within(model: nn.Module) -> Any:
    """The module that `model` wraps in the end; itself where it wraps none.

    Whether a wrapper does more than hand calls on, as learned prompts do, is for a proof to find.
    """
    while (inner := _wrapped_by(model)) is not None:
        model = inner
    return model


def around(model: nn.Module) -> str | None:
    """What of its wrappers would not run if the module within were called instead, in a few words; None: nothing."""
    within = set(model_within(model).modules())
    for module in model.modules():
        own_forward = not isinstance(module, OptimizedModule)  # which keeps what it compiled there
        if module not in within and (reason := bypassed(module, forward=own_forward)) is not None:
            return f"the {type(module).__qualname__} around the model has {reason}"
    return None


def _wrapped_by(model: nn.Module) -> nn.Module | None:
    if isinstance(model, OptimizedModule):
        return model._orig_mod
    peft: Any = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        inner: nn.Module = model.get_base_model()
        return inner
    return None
