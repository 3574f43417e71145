"""Whether a model is still what a pass was written and proved for: adapters come, hooks are hung, layers are frozen.

Nothing here touches the device: what is compared are modules, their attributes and what learns, not weights' values.
"""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from types import FunctionType
from typing import Any

from torch import Tensor, nn
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
        self._types = list(map(type, self.modules))
        self._code = list(_functions(set(map(type, self.modules))))
        self._children_of = [module._modules for module in self.modules]
        self._parameters_of = [module._parameters for module in self.modules]
        self._hooks = [getattr(module, name) for module in self.modules for name in _HOOKS]
        configs = [vars(part.config) for part in self.modules if hasattr(getattr(part, "config", None), "to_dict")]
        self._attributes = [
            *(vars(part) for part in self.modules if not part._forward_pre_hooks),
            *{id(config): config for config in configs}.values(),
        ]
        self._set_anew = [vars(part) for part in self.modules if part._forward_pre_hooks]
        """Attributes of modules whose hooks may make tensors of them before every pass, as pruning does."""
        self._children = list(chain.from_iterable(map(dict.values, self._children_of)))
        parameters = list(chain.from_iterable(map(dict.values, self._parameters_of)))
        self._parameters = [parameter for parameter in parameters if parameter is not None]
        self.parameters = list({id(parameter): parameter for parameter in self._parameters}.values())
        self._ids = list(map(id, parameters))
        self._learning = list(map(_LEARNS, self._parameters))
        self._dtypes = list(map(_DTYPE, self._parameters))
        self._buffers_of = [module._buffers for module in self.modules]
        self._buffers = list(chain.from_iterable(map(dict.values, self._buffers_of)))
        self._numbers = [buffer for buffer in self._buffers if _holds_numbers_of_something(buffer)]
        self._versions = list(map(_VERSION, self._numbers))
        self._hook_counts = list(map(len, self._hooks))
        self._hung = [hooks for hooks in self._hooks if hooks]
        self._hook_ids = list(map(tuple, self._hung))
        self._global_hook_counts = list(map(len, _GLOBAL_HOOKS))
        self._attribute_values = list(map(dict.copy, self._attributes))
        self._values_set_anew = list(map(_without_tensors, self._set_anew))
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
            and list(map(_DTYPE, self._parameters)) == self._dtypes
            and list(map(id, chain.from_iterable(map(dict.values, self._buffers_of)))) == list(map(id, self._buffers))
            and list(map(_VERSION, self._numbers)) == self._versions
            and list(map(len, self._hooks)) == self._hook_counts
            and list(map(tuple, self._hung)) == self._hook_ids
            and list(map(len, _GLOBAL_HOOKS)) == self._global_hook_counts
            and list(map(type, self.modules)) == self._types
            and list(chain.from_iterable(map(dict.values, self._children_of))) == self._children
            and all(names.get(name) is function for names, name, function in self._code)
            and self._same_attributes()
        )

    def _same_attributes(self) -> bool:
        try:
            if not all(map(operator.eq, self._attributes, self._attribute_values)):
                return False
            if list(map(_without_tensors, self._set_anew)) != self._values_set_anew:
                return False
            return all(now == then for now, then in self._contents)
        except Exception:  # of values whose comparison is no bool, tensors for one: only the very same ones are equal
            return False


_LEARNS: Callable[[Any], bool] = attrgetter("requires_grad")
_DTYPE: Callable[[Any], Any] = attrgetter("dtype")
_VERSION: Callable[[Any], int] = attrgetter("_version")


def _holds_numbers_of_something(buffer: Tensor | None) -> bool:
    """Whether a buffer says where tokens stand or of which kind they are, which passes take for granted; those of
    floating point are read anew by each."""
    return buffer is not None and not (buffer.is_floating_point() or buffer.is_inference())


def _without_tensors(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if not isinstance(value, Tensor)}


def _functions(kinds: Iterable[type]) -> Iterator[tuple[Any, str, Any]]:
    """What modules of these types run, less torch's own: the functions of their classes and of the files that these are
    written in, which others may be put in place of; (where, name, function)."""
    bases = {base for kind in kinds for base in kind.__mro__ if base is not object}
    files = {base.__module__ for base in bases if not base.__module__.startswith("torch.")}
    for base in bases:
        if base.__module__ in files:
            yield from ((vars(base), name, value) for name, value in vars(base).items() if type(value) is FunctionType)
        elif "forward" in vars(base):
            yield vars(base), "forward", vars(base)["forward"]
    for file in files:
        if file.startswith("transformers.models."):
            names = vars(sys.modules[file])
            yield from ((names, name, value) for name, value in names.items() if type(value) is FunctionType)


@dataclass(frozen=True)
class Objection:
    """Why a pass does not hold, and why calls of the model run by run (`bucketed`) do not either; None: they do."""

    why: str
    against_runs: str | None = None


ALWAYS_ANOTHER = Objection("the model is another one in every step", "they are not tried in every step")


class Watch:
    """Says whether a pass that was proved on `root` still holds, proving it again where `root` has changed.

    prove: what there is against the pass for the model as it is now; None: nothing. It was proved when the watch
    begins. say: given each new verdict.
    """

    def __init__(self, root: nn.Module, prove: Callable[[], Objection | None], say: Callable[[Objection | None], None]):
        self._root, self._prove, self._say = root, prove, say
        self.state = ModuleState(root)
        """What the model is now, as far as that was looked at."""
        self.objection: Objection | None = None
        self.changes = 0
        """How often another state than the one before was met."""
        self._known: list[tuple[ModuleState, Objection | None]] = [(self.state, None)]
        self._proving = self._given_up = False

    def holds(self) -> bool:
        """Whether the pass holds for the model as it is now."""
        if not (self._proving or self._given_up or self.state.is_now()):
            self._look_again()
        return self.objection is None

    def _look_again(self) -> None:
        self.changes += 1
        before = self.objection
        for state, objection in self._known:
            if state.is_now():
                self.state, self.objection = state, objection
                break
        else:
            self._meet(ModuleState(self._root))
        if self.objection != before:
            self._say(self.objection)

    def _meet(self, state: ModuleState) -> None:
        self.state = state
        self._known = [known for known in self._known if known[0].modules == state.modules]
        if len(self._known) >= MOST_STATES:
            self.objection, self._given_up = ALWAYS_ANOTHER, True
            return
        self._proving = True
        try:
            self.objection = self._prove()
        finally:
            self._proving = False
        self.state = ModuleState(self._root)  # a forward pass may leave attributes behind
        self._known.append((self.state, self.objection))
