"""What is made once of files, and kept in the asset cache: whole or not at all, under a hash of what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.inputs import assets

_FACTS = "facts.json"


def kept(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], announce: Callable[[], None] = lambda: None
) -> tuple[Path, dict[str, Any]]:
    """The folder that `make` fills, and the facts that it returns; made, once announced, where the cache lacks it.

    key: everything that the folder's content depends on. Raises AssetError where the cache cannot be written, and what
    `make` raises, of which nothing is kept. Two processes may make the same folder at once: the first to finish wins.
    """
    folder = assets.cache_dir() / kind / hashlib.sha256(key.encode()).hexdigest()
    facts = folder / _FACTS
    if not facts.is_file():
        announce()
        with assets.scratch_folder() as scratch:
            made = scratch / "made"
            made.mkdir()
            (made / _FACTS).write_text(json.dumps(make(made)), encoding="utf-8")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(folder)
            except OSError:
                if not facts.is_file():
                    raise
    return folder, json.loads(facts.read_text(encoding="utf-8"))
