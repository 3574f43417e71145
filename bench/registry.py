"""What exists, by file name: a module dropped into a package is registered, with no list to edit.

The registered name of a module is its file name; files starting with "_" are helpers and are skipped.
"""

import ast
import importlib
import pkgutil
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType


class UnknownName(ValueError):
    """A name that no file of the package carries; the message names the nearest ones that do."""


def names(package: str) -> tuple[str, ...]:
    """The registered names of `package` ("bench.encoders"), sorted; none of its modules is imported.

    Raises ModuleNotFoundError where there is no such package.
    """
    found = pkgutil.iter_modules(_folders(package))
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def _folders(package: str) -> list[str]:
    """Where the package's modules lie."""
    return list(importlib.import_module(package).__path__)


def check(package: str, name: str) -> None:
    """Raises UnknownName, with the nearest valid name, unless `name` is registered in `package`."""
    valid = names(package)
    if name in valid:
        return
    nearest = get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UnknownName(
        f"no {package.rpartition('.')[2]} entry is named {name!r}; {hint}valid: {', '.join(valid) or 'none yet'}"
    )


def load(package: str, name: str) -> ModuleType:
    """The module registered as `name`, imported; raises UnknownName as `check` does."""
    check(package, name)
    return importlib.import_module(f"{package}.{name}")


def source(package: str, name: str) -> Path:
    """The file that `name` is registered by; raises UnknownName as `check` does."""
    check(package, name)
    places = [
        Path(folder, *inner) for folder in _folders(package) for inner in ((f"{name}.py",), (name, "__init__.py"))
    ]
    return next(place for place in places if place.is_file())


def summary(package: str, name: str) -> str:
    """What `name` is: the first line of its module's docstring, read and not imported."""
    docstring = ast.get_docstring(ast.parse(source(package, name).read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]
