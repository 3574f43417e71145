"""Every file of examples/ runs, naive and ours; both leave the same losses. A new file is covered unedited."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_an_example_is_short_and_has_its_place_in_the_documentation(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
    assert f"examples/{path.name}" in (FOLDER.parent / "docs" / "library.md").read_text(encoding="utf-8")


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
