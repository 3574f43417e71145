"""README.md and docs/ say what the gallery's runs say, lead where they link, and hold code that runs."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

from docs.tools import generate, links

ROOT = links.ROOT


def test_generating_again_changes_nothing():
    """A table or picture that no longer is what its run says is to be generated anew: python -m docs.tools.generate."""
    assert [path for path, _ in generate.changes()] == []


def test_a_number_changed_by_hand_is_found(tmp_path):
    """Guard: pages without generated parts would pass the test above whatever they say."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("tools"))
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    altered, count = re.subn(r"(?<=\| `single_step` \| )[^|]+", "3.00 ", page, count=1)
    assert count == 1
    (tmp_path / "README.md").write_text(altered, encoding="utf-8")
    assert [(path.name, made.decode()) for path, made in generate.changes(tmp_path)] == [("README.md", page)]


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    assert list(links.broken(page)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A & b: `c`\n[1](#a--b-c) [2](#none) [3](none.md) [4](page.md#a--b-c) [5](https://none.example)\n"
    )
    assert list(links.broken(page)) == ["#none", "none.md"]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


def test_the_training_loop_of_the_library_page_runs_and_moves_every_part():
    (code,) = re.findall(r"```python\n(import torch.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
    setup, loop = code.split("for _ in range(3):")
    found = {}
    torch.manual_seed(0)
    exec(setup, found)
    before = [p.detach().clone() for part in ("encoder", "cf_module") for p in found[part].parameters()]
    exec("for _ in range(3):" + loop, found)
    after = [p for part in ("encoder", "cf_module") for p in found[part].parameters()]
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert torch.isfinite(found["loss"])
    assert moved > len(after) // 2
