"""Every file of examples/ runs, naive and ours; both leave the same losses. A new file is covered unedited."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.tools.example_pages import difference, version
from gram_core import encoding, multi_step_encodings, recomputation

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
OPTIONAL = {"lightning", "accelerate", "peft", "sentence_transformers", "datasets"}
"""Libraries without which their example is skipped."""


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request, monkeypatch):
    """The module of an example, loaded as a script of its folder would be."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"examples_{request.param.stem}", request.param)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"needs {error.name}")
        raise
    return module


@pytest.mark.filterwarnings("ignore")
def test_ours_leaves_the_naive_losses_and_encodes_less(example, monkeypatch):
    counts = {"slots": 0, "items": 0}
    every_slot = getattr(example, "every_slot", None)

    def counting_slots(encoder, ids):
        counts["slots"] += ids.numel()
        return every_slot(encoder, ids)

    def counting_items(encoder, items, *limits):
        counts["items"] += len(items)
        return encode_chunks(encoder, items, *limits)

    encode_chunks = recomputation.encode_chunks
    for module in (encoding, multi_step_encodings):
        monkeypatch.setattr(module, "encode_chunks", counting_items)
    monkeypatch.setattr(example, "every_slot", counting_slots, raising=False)
    naive = example.run(naive=True)
    assert counts["items"] == 0
    slots, counts["slots"] = counts["slots"], 0
    ours = example.run(naive=False)
    assert counts["slots"] == 0
    assert 0 < counts["items"] < (slots if every_slot else 64)  # pairs of the example without: 32, two texts each
    assert len(naive) >= 3
    assert ours == pytest.approx(naive, rel=getattr(example, "TOLERANCE", 1e-5))
    assert max(naive) - min(naive) > 1e-4, "losses that stay alike would hide a missing gradient"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_has_its_page_on_the_site(path):
    """What the page says is generated; that it is up to date is seen by tests/test_documentation.py."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
    assert f"- examples/{path.stem}.md\n" in (FOLDER.parent / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_two_changed_lines_turn_the_naive_loop_into_ours(path):
    """Multi-step's call at the loop's end, and at the end of training, are two more."""
    source = path.read_text(encoding="utf-8")
    both = [version(source, naive=naive) for naive in (True, False)]
    conditions = [
        ast.dump(node.test) for each in both for node in ast.walk(ast.parse(each)) if isinstance(node, ast.If)
    ]
    assert not [each for each in conditions if "naive" in each]
    ours = re.compile(r"(?<![.\w])(encode|encoded|MultiStepEncodings|DeduplicatedLoss)\(")
    assert ours.search(both[1])
    assert not ours.search(both[0])
    added = [line for line in difference(source).splitlines() if line[0:1] == "+" and line[1:].strip()]
    assert sum(line.startswith("+from gram_core import") for line in added) == 1
    assert 1 <= len(added) - 1 <= (4 if path.stem == "multi_step" else 2)


@pytest.mark.parametrize("name", ["plain_loop", "multi_step", "own_backward"])
def test_each_of_the_two_loops_that_a_page_compares_runs_by_itself(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    losses = []
    for naive in (True, False):
        found = {"__name__": name}
        exec(version(source, naive=naive), found)
        losses.append(found["run"](naive=None))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_accelerate_in_two_processes():
    """Over Gloo: losses are the naive loop's on each process, and the replicas' weights stay equal."""
    pytest.importorskip("accelerate")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, str(FOLDER / "accelerate_loop.py")], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [line.replace(",", "").split() for line in done.stdout.splitlines() if line.startswith("2 processes")]
    assert float(said[said.index("apart") + 1]) < 1e-10
    assert float(said[said.index("weights") + 1]) == 0
