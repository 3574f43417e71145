"""Where a folder keeps its model, and what may be read of it: decided from its JSON files alone, without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.encoders._base import Files, files_by_part, files_of

ADAPTER_FILE = "adapter_config.json"
MODULES_FILE = "modules.json"


@dataclass(frozen=True)
class EncoderFolder:
    """root: as the user named it. model: where config.json lies; None of an adapter. adapter: where an adapter's
    configuration lies, None of a model. base: the model that the adapter's configuration names."""

    root: Path
    model: Path | None
    adapter: Path | None = None
    base: str | None = None


def open_folder(root: Path) -> EncoderFolder:
    """The parts of an existing folder. Raises ValueError, a sentence without its subject, where it holds no encoder
    that could be loaded without running code of its own."""
    if (root / ADAPTER_FILE).is_file():
        base = read_json(root / ADAPTER_FILE).get("base_model_name_or_path")
        return EncoderFolder(root, None, root, base or None)
    model = _model_folder(root)
    config = read_json(model / "config.json")
    _refuse_own_code(model, config)
    if not config.get("model_type"):
        raise ValueError(
            f"{model / 'config.json'} has no model_type, so it is no transformers model; give the folder that "
            "save_pretrained wrote"
        )
    return EncoderFolder(root, model)


def base_of(folder: EncoderFolder, asked: str | None) -> str:
    """The encoder that a folder's adapters belong to: the one asked for, or what their configuration names.

    Raises ValueError where there is none.
    """
    if asked is not None:
        return asked
    if folder.base is None:
        raise ValueError('its adapter_config.json names no base model; set model.base, to "path:FOLDER" for one')
    for place in (Path(folder.base).expanduser(), folder.root / folder.base):
        if place.is_dir():
            return f"path:{place}"
    if folder.base.startswith((".", "/", "~")) or folder.base.count("/") > 1:
        raise ValueError(
            f"its base model is not at {folder.base}, as its adapter_config.json says; set model.base, to "
            '"path:FOLDER" for one'
        )
    return f"hub:{folder.base}"


def read_json(file: Path) -> dict[str, Any]:
    """The object that a file holds; {} where there is no file. Raises ValueError for a file that holds none."""
    found = _parsed(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object")
    return found


def read_modules(root: Path) -> list[dict[str, Any]]:
    """The entries of a sentence-transformers folder's modules.json, in their order; [] where there is none."""
    found = _parsed(root / MODULES_FILE)
    entries = found if isinstance(found, list) else []
    if found and not all(isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in entries):
        raise ValueError(f"{root / MODULES_FILE} is no list of modules")
    return sorted(entries, key=lambda entry: entry.get("idx", 0))


def kind_of(entry: dict[str, Any]) -> str:
    """The class of an entry of modules.json: Transformer, Pooling, ..."""
    return str(entry["type"]).rpartition(".")[2]


def contents_of(root: Path, base: str | None) -> Files:
    """What a folder's encoder is made of, as `bench.encoders` asks for it: its model or its adapters and the model that
    they are on, which is `base` if given, and whatever follows the model."""
    try:
        folder, entries = open_folder(root), read_modules(root)
    except ValueError:
        return files_of(root)  # no encoder, as loading it says
    followers = [root / str(entry.get("path") or "") for entry in entries if kind_of(entry) != "Transformer"]
    own = files_of(folder.model or root)
    behind = [files_of(each) for each in followers if each not in (folder.model, root)]
    found = {
        "weights": [*own["weights"], *(file for each in behind for file in each["weights"])],
        "configuration": sorted(
            {
                *own["configuration"],
                *files_of(root)["configuration"],
                *(f for each in behind for f in each["configuration"]),
            }
        ),
        "tokenizer": own["tokenizer"],
    }
    if folder.adapter is None:
        return found
    try:
        below = files_by_part(base_of(folder, base))
    except ValueError:
        return found
    return {**found, **{f"base {part}": content for part, content in below.items()}}


def _parsed(file: Path) -> Any:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no JSON file ({error})") from error


def _model_folder(root: Path) -> Path:
    """The folder with config.json: what modules.json says, the root itself, or the only one below it."""
    for entry in read_modules(root):
        if kind_of(entry) == "Transformer":
            named = root / str(entry.get("path") or "")
            if (named / "config.json").is_file():
                return named
            raise ValueError(f"{root / MODULES_FILE} names the model {named}, which holds no config.json")
    if (root / "config.json").is_file():
        return root
    below = sorted(file.parent for file in root.glob("*/config.json") if "model_type" in read_json(file))
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(folder.name for folder in below)
        raise ValueError(f"{root.absolute()} holds several models ({names}); name the one that is meant")
    raise ValueError(
        f"{root.absolute()} holds no config.json, so it is no model; give the folder that save_pretrained wrote"
    )


def _refuse_own_code(model: Path, config: dict[str, Any]) -> None:
    """Code next to a model of a family that transformers has itself is no need: it is left aside."""
    if _asks(config, "AutoConfig", "AutoModel") and not _is_known(config.get("model_type")):
        raise ValueError(
            f"config.json asks for code of its own (auto_map), which is never run here, and transformers has no family "
            f"{config.get('model_type')} itself; convert the model to one that it has"
        )
    if _asks(read_json(model / "tokenizer_config.json"), "AutoTokenizer"):
        raise ValueError(
            "tokenizer_config.json asks for code of its own (auto_map), which is never run here; where a "
            'tokenizer.json lies next to it, remove "auto_map" to have that read'
        )


def _asks(config: dict[str, Any], *names: str) -> bool:
    return any(name in (config.get("auto_map") or {}) for name in names)


def _is_known(family: Any) -> bool:
    from transformers import CONFIG_MAPPING

    return family in CONFIG_MAPPING


def has_own_code(model: Path) -> bool:
    """Whether code lies next to the model that is left aside."""
    return _asks(read_json(model / "config.json"), "AutoConfig", "AutoModel")
