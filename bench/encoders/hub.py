"""`hub:NAME`: any encoder of the Hugging Face hub, from its local cache or over the network."""

import re
from pathlib import Path

from bench.encoders._base import Files, LoadedEncoder, Loading

ASSETS: tuple[str, ...] = ()
ADAPTS = True
"""As of `path`."""

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check(argument: str | None) -> None:
    """Raises ValueError unless the argument looks like a hub name; asks no network."""
    if argument is None or not _NAME.fullmatch(argument):
        raise ValueError(
            f'encoder "hub:{argument or ""}" must name a model of the hub, such as '
            '"hub:sentence-transformers/all-MiniLM-L6-v2"; a folder is "path:FOLDER"'
        )


def contents(argument: str | None, base: str | None = None) -> Files:
    """As of `path`, of the revision that the local cache calls its newest; nothing where it has none yet."""
    from huggingface_hub import try_to_load_from_cache

    from bench.encoders._folder import ADAPTER_FILE, MODULES_FILE, contents_of

    for name in ("config.json", ADAPTER_FILE, MODULES_FILE):
        found = try_to_load_from_cache(str(argument), name)
        if isinstance(found, str):
            return contents_of(Path(found).parent, base)
    return {}


def pooling(argument: str | None) -> None:
    """Only its files say, and its model."""


def load(argument: str | None, asked: Loading) -> LoadedEncoder:
    """See `bench.encoders._base.load`: as `path` loads the folder that the hub's files are.

    Raises ValueError where the hub cannot be reached and nothing is cached.
    """
    from bench.encoders._huggingface import load_pretrained

    name = str(argument)
    folder = snapshot(name)
    try:
        return load_pretrained(folder, asked, name=name)
    except ValueError as error:
        raise ValueError(f'encoder "hub:{name}": {error}') from error


def cached(argument: str | None) -> bool:
    """Whether `load` needs no network, as far as that can be known."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(str(argument), allow_patterns=_SMALL, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


_SMALL = ["*.json", "*.txt", "*.model", "*.safetensors", "*.safetensors.index.json"]
_PICKLED = ["*pytorch_model*.bin", "*adapter_model.bin"]
_OTHERS = ["onnx/*", "openvino/*", "original/*", "*/checkpoint-*"]


def snapshot(name: str) -> Path:
    """The folder of a hub model's files, downloaded if they are not cached; pickled weights only where there are no
    others. Raises ValueError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_SMALL, ignore_patterns=_OTHERS))
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=_PICKLED, ignore_patterns=_OTHERS)
        return folder
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'encoder "hub:{name}" could not be loaded ({reason}); download it where there is a network with '
            f'`hf download {name} --local-dir FOLDER` and use "path:FOLDER"'
        ) from error
