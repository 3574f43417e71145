"""Which tier an engine ran, and why no faster one, reaches records, pages, verify's output and standard error, once."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.build.assembly import build
from bench.configuration.config import load
from bench.configuration.sweep import plan
from bench.processes.messages import Job
from bench.progress import ProgressView, TrainingView
from bench.results.detail import TrainingDetail
from bench.results.training import TrainingPoint
from bench.running.events import FellBack, Finished
from bench.verify.report import verify
from bench.worker.subject import Subject
from reports.page import render
from reports.sections import tiers
from tests.bench import _encoder_folders
from tests.reports import _runs

WHY = "packed: model type modernbert has position or attention rules of its own"


def config(*changes):
    axes = ['workload=["synthetic"]', "text_length=[8]", "history_length=[4]", "batch_size=[4]", "part=[]"]
    axes += ["item_repetition_ratio=[2]", 'method=["single_step"]', 'precision=["float64"]', "layers=[1]"]
    sets = [f"sweep.{axis}" for axis in axes] + list(changes)
    return load(None, "smoke", sets, "cpu")


@pytest.mark.parametrize(
    ("encoder", "engine", "tier", "why"),
    [
        ("shape:tiny", "fast", "packed", None),
        ("shape:tiny", "eager", None, None),
        ("modernbert", "fast", "general", WHY),
    ],
)
@pytest.mark.filterwarnings("error::gram_core.engines._tiers.FallBack")
def test_a_built_method_says_how_its_encoder_runs(encoder, engine, tier, why, tmp_path):
    if not encoder.startswith("shape:"):
        _encoder_folders.save(tmp_path, encoder)
        encoder = f"path:{tmp_path}"
    settings = config(f'sweep.encoder=["{encoder}"]', f'sweep.engine=["{engine}"]')
    item = plan(settings)[0]
    built = build(settings, item, torch.device("cpu"))
    assert built.ran == (tier, why)
    subject = Subject(Job(settings, item))
    subject.set_up()
    facts = subject._facts()
    assert (facts["tier"], facts["why_no_faster_tier"]) == (tier, why)


def test_verify_says_how_encoders_ran():
    settings = config('sweep.encoder=["shape:tiny"]', 'sweep.engine=["eager", "fast"]', "model.lora.rank=2")
    report = verify(settings, "cpu")
    assert report.ran == ("the engine fast runs shape:tiny by its tier 'packed'",)
    out = io.StringIO()
    report.print_table(Console(file=out, width=200))
    assert report.ran[0] in out.getvalue()


def test_a_fall_back_is_printed_once_beside_the_progress():
    settings = config('sweep.encoder=["shape:tiny"]')
    item = plan(settings)[0]
    out = io.StringIO()
    with ProgressView(Console(file=out, width=300)) as view:
        for number, told in enumerate((None, WHY, WHY), start=1):
            record = _runs.record(engine="fast", tier="padded" if told else "packed", why_no_faster_tier=told)
            view(Finished(item, record, number, 3, 1.0, None))
    assert out.getvalue().count("warning: ") == 1
    assert f"warning: the engine fast runs shape:tiny layers=1 by its tier 'padded'; {WHY}" in out.getvalue()
    out = io.StringIO()
    with TrainingView(Console(file=out, width=300)) as training:
        for _ in range(2):
            training(FellBack("the engine fast runs it padded"))
    assert out.getvalue().count("warning: the engine fast runs it padded") == 1


def test_the_page_says_how_encoders_ran(tmp_path: Path):
    records = [
        _runs.record("e2e", engine="fast", tier="padded", why_no_faster_tier=WHY),
        _runs.record("single_step", engine="fast", tier="padded", why_no_faster_tier=WHY),
        _runs.record("e2e", engine="eager"),
    ]
    rendered = render(_runs.write(tmp_path, records))
    assert WHY in rendered.page.read_text()
    row = next(line for line in rendered.markdown.read_text().splitlines() if WHY in line)
    assert "padded" in row
    assert "e2e and single" in row
    assert tiers.table(records[2:]) == ()


def test_a_training_point_tells_it_in_its_detail():
    point = TrainingPoint.model_construct(
        case={"encoder": "minilm", "precision": "bf16"}, method="e2e", engine="fast", accumulation_steps=None,
        detail=TrainingDetail(tier="packed"),
    )  # fmt: skip
    (table,) = tiers.table([point])
    assert table.groups[0].title == "minilm · bf16"
    assert [cell.text for cell in table.groups[0].rows[0]] == ["fast", "packed", "e2e", "the fastest"]
