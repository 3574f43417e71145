"""Modules of one class that are called another way for a while, which their class is told and not they."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

_lock = Lock()
_held: dict[Any, tuple[Any, int]] = {}
"""Classes whose `forward` is another one now: their own, and for how many."""


@contextmanager
def calling(kind: Any, name: str, values: Mapping[Any, Any], make: Callable[[Any], Any]) -> Iterator[None]:
    """Within, `kind.forward` is `make` of its own, and finds each module's value as its attribute `name`.

    May be entered again within, and by several threads, of which the last one to leave restores the class.
    """
    with _lock:
        own, holders = _held.get(kind, (kind.forward, 0))
        if not holders:
            kind.forward = make(own)
        _held[kind] = own, holders + 1
    before = {module: vars(module).get(name) for module in values}
    try:
        for module, value in values.items():
            vars(module)[name] = value
        yield
    finally:
        for module, value in before.items():
            vars(module).pop(name, None)
            if value is not None:
                vars(module)[name] = value
        with _lock:
            own, holders = _held.pop(kind)
            if holders == 1:
                kind.forward = own
            else:
                _held[kind] = own, holders - 1
