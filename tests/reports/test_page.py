"""What a rendered run says, for every kind of run, and that it keeps to itself."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.results.schema import Record
from bench.results.store import DamagedResults, ResultsError, UnwritableResults
from reports import numbers
from reports.__main__ import main
from reports.page import render
from tests.reports import _runs

WITHOUT_FIGURES = ("all_failed", "nothing_yet")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return render(_runs.write(tmp_path_factory.mktemp("full"), _runs.full()))


def text(page: str) -> str:
    """The page's words without markup."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


class Tags(HTMLParser):
    """Every start tag with its attributes, and whether tags are closed in order."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_keeps_to_itself(page: str) -> None:
    tags = Tags(page)
    assert tags.open == []
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "iframe", "object", "embed", "video", "audio", "form"}
    for tag, attributes in tags.found:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    style = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("name", _runs.SCENARIOS)
def test_every_kind_of_run_renders(name, tmp_path, full):
    """An empty, failed, lone or odd run still gives a page that is whole, with no stray None or NaN.

    Each figure draws what there is, and nothing where nothing was measured.
    """
    records = _runs.SCENARIOS[name]()
    rendered = full if name == "full" else render(_runs.write(tmp_path, records))
    assert not (rendered.figures and name in WITHOUT_FIGURES)
    page = rendered.page.read_text()
    assert_keeps_to_itself(page)
    for prose in (text(page), rendered.markdown.read_text()):
        assert not re.search(r"\b(nan|None|inf)\b", prose)
    with open(rendered.csv, newline="") as file:
        assert len(list(csv.DictReader(file))) == len({(str(r.case), r.label, r.engine) for r in records})


def test_headline_names_method_speed_up_ratio_and_memory_of_the_best_real_result(full):
    """Shapes with random weights reach a higher speed-up in this run and must not lead."""
    page = full.page.read_text()
    heading = re.search(r"<h1>(.*?)</h1>", page).group(1)
    assert re.search(
        rf"single_step is [\d.]+{numbers.TIMES} as fast as end-to-end training on movielens with minilm", heading
    )
    assert "repetition ratio of 3.05" in heading
    prose = text(page)
    assert re.search(r"peak memory is [\d.]+ GiB, [\d.]+ % of e2e", prose)
    assert "gradient unchanged" in prose
    assert re.search(rf"multi_step N=16 reaches [\d.]+{numbers.TIMES}, but is stale", prose)


def test_random_weights_are_said_plainly(full):
    prose = text(full.page.read_text())
    assert prose.index("Real log, real weights") < prose.index(
        "These encoders have the stated shape but random weights"
    )


def test_a_speed_up_stands_with_its_interval_and_the_environment_is_judged(tmp_path):
    """A ratio without its error is an anecdote; a canary that nobody sees warns nobody."""
    run = _runs.write(tmp_path, _runs.paired())
    rendered = render(run)
    prose, markdown = text(rendered.page.read_text()), rendered.markdown.read_text()
    with open(rendered.csv, newline="") as file:
        (line,) = (row for row in csv.DictReader(file) if row["label"] == "single_step")
    spread = numbers.ratio_range(float(line["speed_up_low"]), float(line["speed_up_high"]))
    assert f"Over 6 blocks of fresh processes the 95 % interval of its speed-up is {spread} (±" in prose
    assert f"the speed of e2e, 95 % interval {spread}" in prose
    for told in (prose, markdown):
        assert "The environment can be trusted: e2e measured against itself in 1 case gives" in told
        assert "Hodges-Lehmann" in told
    assert "## Precision" in markdown
    assert "INCONCLUSIVE" not in prose


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (
            _runs.paired(bias=0.05),
            "The environment cannot be trusted: e2e measured against itself in 1 case gives 0.95",
        ),
        (_runs.paired(count=1), "The environment is not shown to be steady"),
    ],
    ids=["biased", "one block"],
)
def test_an_environment_that_cannot_be_trusted_is_said_at_the_top(records, said, tmp_path):
    page = render(_runs.write(tmp_path, records)).page.read_text()
    header = text(page[: page.index("</header>")])
    assert said in header


def test_no_canary_is_no_judgement(full):
    assert "The environment" not in text(full.page.read_text())


def test_everything_not_measured_is_listed_with_its_reason(full):
    page = full.page.read_text()
    section = page[page.index('id="missing"') : page.index('id="all"')]
    for reason in ("CUDA ran out of memory: 74.2 GiB in use", "no result within 300 s", "this case is larger"):
        assert reason in section
    failures = sum(record.outcome != "ok" for record in _runs.full())
    assert section.count('class="t bad"') == failures


def test_a_speed_up_without_reference_says_why(tmp_path):
    records = [_runs.record("e2e", outcome="oom", reason="too large"), _runs.record("single_step")]
    prose = text(render(_runs.write(tmp_path, records)).page.read_text())
    assert "e2e out of memory" in prose
    assert "Nothing to compare" in prose


def test_every_record_is_in_the_csv(full):
    with open(full.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(_runs.full())
    assert {row["outcome"] for row in rows} == {"ok", "oom", "timeout", "error", "skipped"}
    measured = [row for row in rows if row["outcome"] == "ok"]
    assert all(float(row["median_s"]) > 0 and float(row["item_repetition_ratio"]) >= 1 for row in measured)
    assert all(row["median_s"] == "" and row["reason"] for row in rows if row["outcome"] != "ok")


def test_the_command_and_the_configuration_reproduce_the_run(full):
    prose = text(full.page.read_text())
    assert "gram-bench run --preset full --set &#39;sweep.batch_size=[16, 32, 64]&#39;" in prose
    assert "batch_size = [16, 32, 64]" in prose
    assert "NVIDIA H100 80GB HBM3" in prose
    assert "torch 2.11.0" in prose
    assert "2026-11-23 10:15 UTC" in prose
    assert "minilm: 6 layers, d 768" in prose
    assert "items 1682, mean text tokens 28.77" in prose


def test_figures_are_written_and_inlined(full):
    page = full.page.read_text()
    names = {path.name.split("--")[0].removesuffix(".png") for path in full.figures}
    assert names == {
        "speed_up_by_repetition", "time_by_batch_size", "time_by_text_length", "memory_by_batch_size",
        "memory_by_text_length", "heat_speed_up", "heat_memory", "interval_repetition",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in full.figures)
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == len(full.figures)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)


def test_rendering_again_leaves_no_picture_of_before(tmp_path):
    run_dir = _runs.write(tmp_path, _runs.blocks())
    stale = run_dir / "figures" / "old.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    first = render(run_dir)
    assert not stale.exists()
    before = {path.name: path.read_bytes() for path in first.figures}
    page = first.page.read_bytes()
    again = render(run_dir)
    assert {path.name: path.read_bytes() for path in again.figures} == before
    assert again.page.read_bytes() == page
    assert not list(run_dir.rglob(".*"))


def test_engine_and_method_shares_are_split(tmp_path):
    records = [_runs.record(method, engine=engine) for engine in ("eager", "fast") for method in ("e2e", "single_step")]
    page = render(_runs.write(tmp_path, records)).page.read_text()
    assert "What the engine gains, and what the method gains" in page
    heading = re.search(r"<h1>(.*?)</h1>", page).group(1)
    eager, fast = (next(r for r in records if r.method == "e2e" and r.engine == e) for e in ("eager", "fast"))
    single = next(r for r in records if r.method == "single_step" and r.engine == "fast")
    inside = sorted(fast.samples_s)[2] / sorted(single.samples_s)[2]
    across = sorted(eager.samples_s)[2] / sorted(single.samples_s)[2]
    assert numbers.times(inside) in heading
    assert numbers.times(across) not in heading


def test_one_engine_shows_no_engine_section(full):
    assert 'id="engines"' not in full.page.read_text()


def test_dropout_qualifies_exactness(tmp_path):
    prose = text(render(_runs.write(tmp_path, _runs.SCENARIOS["dropout_shared"]())).page.read_text())
    assert "exact if dropout off" in prose
    assert "dropout shared" in prose


HOSTILE = '<script>alert(1)</script><img src="http://example.org/x.png" onerror=x>{{ 7 * 7 }}|`"\'&'


def test_every_string_of_a_run_is_escaped(tmp_path):
    """Names and reasons come from files and errors: none may become markup, in the page or in Markdown."""
    header = _runs.info()
    place = header.environment
    header = header.model_copy(
        update={
            "run_id": HOSTILE,
            "preset": HOSTILE,
            "started_at": HOSTILE,
            "command": (HOSTILE,),
            "config": {HOSTILE: {HOSTILE: [HOSTILE]}},
            "environment": place.model_copy(
                update={
                    "device": HOSTILE,
                    "cpu": HOSTILE,
                    "os": HOSTILE,
                    "libraries": {HOSTILE: HOSTILE},
                    "git_sha": HOSTILE,
                }
            ),
        }
    )
    records = [
        Record.model_validate(
            _runs.record(
                method, outcome=outcome, reason=HOSTILE if outcome != "ok" else None, batch_size=batch
            ).model_dump()
            | {
                "detail": {"encoder": HOSTILE, "workload": {HOSTILE: HOSTILE}},
                "engine": HOSTILE,
                "optimizer": HOSTILE,
                "accumulation_steps": steps,
            }
            | {
                "case": {
                    "workload": HOSTILE,
                    "encoder": HOSTILE,
                    "batch_size": batch,
                    "text_length": 32,
                    "precision": HOSTILE,
                }
            }
        )
        for batch in (16, 32)
        for method, steps, outcome in (("e2e", None, "ok"), (HOSTILE, HOSTILE, "ok"), ("single_step", None, "error"))
    ]
    rendered = render(_runs.write(tmp_path, records, header))
    page = rendered.page.read_text()
    assert_keeps_to_itself(page)
    assert "alert(1)" in page
    assert "{{ 7 * 7 }}" in page
    body = page[page.index("<body>") :]
    assert "<script" not in body
    prose = rendered.markdown.read_text().split("## Reproduce")[0]
    assert "<script" not in prose
    assert "<img" not in prose


def test_a_half_written_line_is_told_on_the_page(tmp_path):
    run_dir = _runs.write(tmp_path, _runs.blocks(2))
    path = run_dir / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    rendered = render(run_dir)
    assert len(rendered.warnings) == 1
    prose = text(rendered.page.read_text())
    assert "half-written" in prose
    assert "Unfinished: 7 of 8 planned measurements recorded" in prose


def test_damage_and_unwritable_places_are_errors(tmp_path):
    run_dir = _runs.write(tmp_path, _runs.blocks(1))
    (run_dir / "summary.md").mkdir()
    with pytest.raises(UnwritableResults, match=r"summary\.md"):
        render(run_dir)
    path = run_dir / "results.jsonl"
    path.write_text("broken\n" + path.read_text())
    with pytest.raises(DamagedResults, match="line 1"):
        render(run_dir)
    with pytest.raises(ResultsError, match="not a run directory"):
        render(tmp_path)


def test_the_module_runs_on_its_own(tmp_path, capsys):
    """`python -m reports RUN_DIR`: exit code 0 and the page's path; 1 and one sentence; 2 on wrong usage."""
    run_dir = _runs.write(tmp_path, _runs.blocks(1))
    command = [sys.executable, "-m", "reports", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, str(run_dir / "report.html"))
    assert main([]) == 2
    capsys.readouterr()
    assert main([str(tmp_path / "nowhere")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_time_of_rendering_grows_with_the_records_and_no_faster(tmp_path, monkeypatch):
    """What looks at every pair of records takes 16 times as long for four times as many. Figures grow with settings."""
    monkeypatch.setattr("reports.figures.draw_all", lambda *_: ())
    spent = {}
    for count in (500, 2000):
        run_dir = _runs.write(tmp_path, _runs.many(count))
        started = time.process_time()
        rendered = render(run_dir)
        spent[count] = time.process_time() - started
    assert spent[2000] < 2 * 4 * spent[500]
    assert rendered.page.stat().st_size < 12e6
    assert "more lines" in text(rendered.page.read_text())
