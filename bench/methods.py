"""Methods by name: the core's, the peers', a user's own (`run.plugins`); and why one could not be given its best."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from bench import registry
from bench.results.schema import Exactness

REFERENCE = "e2e"
"""End-to-end training as it is: what exactness is measured by."""
PACKAGES = ("gram_core.methods", "bench.peers")
"""Where methods live, first come first served."""


def method_class(name: str, plugins: Sequence[str] = ()) -> type[Any]:
    """The method's class: the one in the file of that name whose `name` says so too.

    plugins: dotted names of further packages whose files are methods; one that derives from no `MethodBase` gets its
    defaults. Raises registry.UnknownName (a ValueError)
    where no package has it, ModuleNotFoundError where there is no such plugin.
    """
    from gram_core.methods._base import MethodBase

    found = registered_class(_module(name, plugins), name)
    return found if issubclass(found, MethodBase) else type(found.__name__, (found, MethodBase), {"name": name})


class Unavailable(Exception):
    """A method that can't run here, for want of a library or on this encoder; the message says why and what to do."""


def check_available(chosen: type[Any]) -> None:
    """Raises Unavailable where the method's `requires()` gives a reason."""
    reason = chosen.requires()
    if reason is not None:
        raise Unavailable(reason)


def exactness(chosen: type[Any], dropout: str, settings: Any = None, max_grad_norm: float | None = None) -> Exactness:
    """What a method may claim: with dropout on, one mask per unique item is not end-to-end training's expectation.

    settings: with those of its `exact_with` a stale method is exact, unless gradients are clipped: it clips encoder
    and CF module each on its own.
    """
    claim: Exactness = chosen.exactness
    if settings is not None and max_grad_norm is None and chosen.exact_with:
        wanted = chosen.exact_with.items()
        claim = "exact" if all(getattr(settings, name) == value for name, value in wanted) else claim
    if dropout == "shared" and claim == "exact" and chosen.name != REFERENCE:
        return "other-model"
    return claim


def registered_class(module: ModuleType, name: str) -> type[Any]:
    """The class of a registered module: what it defines under its own file's name."""
    for value in vars(module).values():
        if isinstance(value, type) and vars(value).get("name") == name:
            return value
    raise ValueError(f"{module.__name__} defines no class whose name is {name!r}, its file's")


def _module(name: str, plugins: Sequence[str]) -> ModuleType:
    for package in (*PACKAGES, *plugins):
        if name in registry.names(package):
            return registry.load(package, name)
    registry.check(PACKAGES[0], name)
    raise AssertionError("check has raised: the first package has no such name")


Where = Literal["everywhere", "against graphs", "measured", "cpu"]


@dataclass(frozen=True)
class Handicap:
    """A sentence for the reader of results.

    only: where it holds. "against graphs": our steps are replayed from captured graphs, its own launched; "measured": a
    few steps are measured, and nothing is trained to its end; "cpu": on processors.
    """

    sentence: str
    only: Where = "everywhere"


UNCAPTURED = Handicap(
    "on the fast engine its steps are launched kernel by kernel; ours are replayed from captured graphs",
    "against graphs",
)
FEW_STEPS = Handicap(
    "a measurement has few warm-up steps: its cache holds less there than in a long training", "measured"
)


def that_hold(handicaps: Iterable[Handicap | str], *, captured: bool, trained: bool, on_cpu: bool) -> list[str]:
    """The sentences that hold; a plain one, as a method of one's own may have, holds everywhere.

    captured: whether our steps are captured there; trained: whether it is trained to the end.
    """
    holds = {"everywhere": True, "against graphs": captured, "measured": not trained, "cpu": on_cpu}
    known = [Handicap(handicap) if isinstance(handicap, str) else handicap for handicap in handicaps]
    return [handicap.sentence for handicap in known if holds[handicap.only]]
