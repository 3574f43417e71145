"""`path:DIR`: a folder as `save_pretrained`, sentence-transformers, peft or `hf download --local-dir` leave it."""

from pathlib import Path

from bench.encoders._base import Files, LoadedEncoder, Loading

ASSETS: tuple[str, ...] = ()
ADAPTS = True
"""`load` takes the base of adapters, and what it loads may be wrong in ways that only loading it shows."""


def check(argument: str | None) -> None:
    """Raises ValueError unless the argument is a folder that says of itself that it holds a model, or adapters."""
    from bench.encoders._folder import open_folder

    if not argument:
        raise ValueError('encoder "path" must name a folder: "path:FOLDER"')
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise ValueError(f'encoder "path:{argument}": there is no folder {folder.absolute()}')
    try:
        open_folder(folder)
    except ValueError as error:
        raise ValueError(f'encoder "path:{argument}": {error}') from error


def pooling(argument: str | None) -> None:
    """Only its files say, and its model."""


def contents(argument: str | None, base: str | None = None) -> Files:
    """The folder's files, and those of the base of adapters."""
    from bench.encoders._folder import contents_of

    return contents_of(Path(str(argument)).expanduser(), base)


def load(argument: str | None, asked: Loading) -> LoadedEncoder:
    """See `bench.encoders._base.load`. Raises ValueError where the folder's files are no encoder of texts."""
    from bench.encoders._huggingface import load_pretrained

    folder = Path(str(argument)).expanduser()
    try:
        return load_pretrained(folder, asked, name=folder.name)
    except ValueError as error:
        raise ValueError(f'encoder "path:{argument}": {error}') from error
