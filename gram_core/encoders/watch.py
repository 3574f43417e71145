"""Whether a model is still what a pass was written and proved for: adapters come, hooks are hung, layers are frozen.

Nothing here touches the device: what is compared are modules, their attributes and what learns, not weights' values.
"""

import operator
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import nn
from torch.nn.modules import module as _torch_module

MOST_STATES = 8
"""States that are remembered; a model in ever new ones is not proved again and again."""
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has, which are compared by themselves."""
_GLOBAL_HOOKS = [
    found
    for name in ("_global_forward_hooks", "_global_forward_pre_hooks")
    if (found := getattr(_torch_module, name, None)) is not None
]


class ModuleState:
    """What a tree of modules is made of at one time, kept so that comparing it takes microseconds."""

    def __init__(self, root: nn.Module):
        self.modules = list(root.modules())
        kinds: list[Any] = list(set(map(type, self.modules)))
        self._types, self._kinds = list(map(type, self.modules)), kinds
        self._forwards = [kind.forward for kind in kinds]
        self._children_of = [module._modules for module in self.modules]
        self._parameters_of = [module._parameters for module in self.modules]
        self._hooks = [getattr(module, name) for module in self.modules for name in _HOOKS] + _GLOBAL_HOOKS
        configs = [vars(part.config) for part in self.modules if hasattr(getattr(part, "config", None), "to_dict")]
        self._attributes = [*map(vars, self.modules), *{id(config): config for config in configs}.values()]
        self._children = list(chain.from_iterable(map(dict.values, self._children_of)))
        parameters = list(chain.from_iterable(map(dict.values, self._parameters_of)))
        self._parameters = [parameter for parameter in parameters if parameter is not None]
        self.parameters = list({id(parameter): parameter for parameter in self._parameters}.values())
        self._ids = list(map(id, parameters))
        self._learning = list(map(_LEARNS, self._parameters))
        self._hook_counts = list(map(len, self._hooks))
        self._attribute_values = list(map(dict.copy, self._attributes))
        contained = [(name, value) for values in map(vars, self.modules) for name, value in values.items()]
        self._contents = [
            (value, value.copy()) for name, value in contained if type(value) in (dict, list, set) and name not in _OWN
        ]
        """What adapters keep in containers that they change in place: which are merged, their scales."""

    def is_now(self) -> bool:
        """Whether everything is as it was then."""
        return (
            list(map(id, chain.from_iterable(map(dict.values, self._parameters_of)))) == self._ids
            and list(map(_LEARNS, self._parameters)) == self._learning
            and list(map(len, self._hooks)) == self._hook_counts
            and list(map(type, self.modules)) == self._types
            and list(chain.from_iterable(map(dict.values, self._children_of))) == self._children
            and [kind.forward for kind in self._kinds] == self._forwards
            and self._same_attributes()
        )

    def _same_attributes(self) -> bool:
        try:
            if not all(map(operator.eq, self._attributes, self._attribute_values)):
                return False
            return all(now == then for now, then in self._contents)
        except Exception:  # of values whose comparison is no bool, tensors for one: only the very same ones are equal
            return False


_LEARNS: Callable[[Any], bool] = attrgetter("requires_grad")


class Watch:
    """Says whether a pass that was proved on `root` still holds, proving it again where `root` has changed.

    prove: why the pass does not hold for the model as it is now; None where it does. It was proved when the watch
    begins. say: given each new verdict.
    """

    def __init__(self, root: nn.Module, prove: Callable[[], str | None], say: Callable[[str | None], None]):
        self._root, self._prove, self._say = root, prove, say
        self.state = ModuleState(root)
        """What the model is now, as far as that was looked at."""
        self.reason: str | None = None
        """Why the pass does not hold; None where it does."""
        self.changes = 0
        """How often another state than the one before was met."""
        self._known: list[tuple[ModuleState, str | None]] = [(self.state, None)]
        self._proving = self._given_up = False

    def holds(self) -> bool:
        """Whether the pass holds for the model as it is now."""
        if not (self._proving or self._given_up or self.state.is_now()):
            self._look_again()
        return self.reason is None

    def _look_again(self) -> None:
        self.changes += 1
        before = self.reason
        for state, reason in self._known:
            if state.is_now():
                self.state, self.reason = state, reason
                break
        else:
            self._meet(ModuleState(self._root))
        if self.reason != before:
            self._say(self.reason)

    def _meet(self, state: ModuleState) -> None:
        self.state = state
        self._known = [known for known in self._known if known[0].modules == state.modules]
        if len(self._known) >= MOST_STATES:
            self.reason, self._given_up = "the model is another one in every step", True
            return
        self._proving = True
        try:
            self.reason = self._prove()
        finally:
            self._proving = False
        self.state = ModuleState(self._root)  # a forward pass may leave attributes behind
        self._known.append((self.state, self.reason))
