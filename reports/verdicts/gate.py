"""The gate's verdicts for readers: a table in the terminal, Markdown for a pull request, JUnit for a CI server."""

import xml.etree.ElementTree as ET

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.results.verdicts import WORST_FIRST, Check, GateReport, LineVerdict, Verdict
from reports import numbers, words
from reports.table import Cell, Column, Table, escape, grouped, markdown, text

_STYLES: dict[Verdict, str] = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}
_KINDS: dict[Verdict, str] = {"PASS": "muted", "FAIL": "bad", "INCONCLUSIVE": ""}
_TIMED = ("floor", "reference")
_Row = tuple[LineVerdict, Check, bool]
"""A line, one of its checks, and whether that is the first that is shown."""


def conditions(report: GateReport) -> list[str]:
    """What the verdicts rest on, a sentence each: reference, tolerance, canary, and the gate's notes."""
    sentences = []
    if report.reference is not None:
        then = report.reference
        sentences.append(
            f"Held against {then.run_id} ({then.device}, {numbers.moment(then.measured_at)}): "
            f"{numbers.percent(report.tolerance)} of a speed-up may be lost, {report.tolerance_reason}."
        )
    canary = report.canary
    if canary is not None:
        spread = numbers.ratio_range(canary.low, canary.high)
        itself = numbers.times(canary.ratio, canary.low, canary.high)
        trusted = "within" if canary.trusted else "which leaves"
        sentences.append(
            f"Canary: e2e against itself is {itself}{f' ({spread})' if spread else ''} over "
            f"{numbers.count(canary.blocks, 'block')}, {trusted} 1 ± {numbers.percent(canary.limit)}."
        )
    return sentences + [f"{note[:1].upper()}{note[1:]}." for note in report.notes]


def table(report: GateReport) -> Table:
    """Every gated line, the worst first; a line that fails in several ways has a row for each."""
    ordered = [line for verdict in WORST_FIRST for line in report.of(verdict)]
    rows = [(line, check, place == 0) for line in ordered for place, check in enumerate(shown_checks(line))]
    return grouped(COLUMNS, rows, len(rows), lambda row: row[0].case_title)


def shown_checks(line: LineVerdict) -> tuple[Check, ...]:
    """The checks that a reader needs: all of the line's verdict, and of a passing line the comparisons."""
    decisive = tuple(check for check in line.checks if check.verdict == line.verdict)
    telling = tuple(check for check in decisive if check.name in _TIMED or check.verdict == "FAIL")
    return telling or (line.deciding,)


def _speed_up(row: _Row) -> Cell:
    line, _, first = row
    ends = line.speed_up_low, line.speed_up_high
    return Cell(numbers.times(line.speed_up, *ends), note=numbers.ratio_range(*ends)) if first else Cell("")


COLUMNS = (
    text("Method", lambda row: Cell(row[0].label if row[2] else "", "strong")),
    text("Verdict", lambda row: Cell(row[1].verdict, _KINDS[row[1].verdict])),
    text("Code", lambda row: row[1].code),
    Column("Speed-up against e2e", _speed_up, short="vs e2e"),
    Column("Blocks", lambda row: numbers.plain(row[0].blocks) if row[2] else ""),
    text("Reason", lambda row: row[1].reason),
)


def print_report(report: GateReport, console: Console) -> None:
    """The verdicts in the terminal, the overall one last."""
    for verdict in WORST_FIRST:
        cases: dict[str, list[LineVerdict]] = {}
        for line in report.of(verdict):
            cases.setdefault(line.case_title, []).append(line)
        for title, judged in cases.items():
            console.print(Text(title, style="bold"))
            console.print(_case_table(judged))
    console.print()
    for sentence in conditions(report):
        console.print(Text(sentence, style="dim"))
    console.print(Text(f"{report.verdict}: ", style=_STYLES[report.verdict]).append(report.reason, style="default"))


def _case_table(judged: list[LineVerdict]) -> RichTable:
    """The lines of one case, with a row for each check that decides."""
    drawn = RichTable(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for line in judged:
        for place, check in enumerate(shown_checks(line)):
            reason = Text(f"{check.code}: ", style="dim").append(check.reason, style="default")
            drawn.add_row(
                Text(f"  {check.verdict}", style=_STYLES[check.verdict]), Text("" if place else line.label), reason
            )
    return drawn


def as_markdown(report: GateReport) -> str:
    """For a pull request: the verdict, what is wrong in a table, and what passes folded away."""
    wrong = [line for line in report.lines if line.verdict != "PASS"]
    fine = report.of("PASS")
    parts = [
        f"## gram-bench gate: {report.verdict}",
        escape(f"{report.reason[:1].upper()}{report.reason[1:]}."),
        escape(f"Run {report.run_id} on {report.device}: {_tally(report)}."),
    ]
    parts += [markdown(table(report.model_copy(update={"lines": tuple(wrong)})))] if wrong else []
    if fine:
        passing = markdown(table(report.model_copy(update={"lines": fine})))
        parts.append(
            f"<details><summary>{numbers.count(len(fine), 'line')} passed</summary>\n\n{passing}\n\n</details>"
        )
    parts += ["\n".join(f"- {escape(sentence)}" for sentence in conditions(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tally(report: GateReport) -> str:
    counts = [(len(report.of(verdict)), verdict) for verdict in ("PASS", "FAIL", "INCONCLUSIVE")]
    return words.listing(f"{amount} {verdict}" for amount, verdict in counts if amount) or "no line was judged"


def as_junit(report: GateReport) -> bytes:
    """JUnit's XML: a line is a test case. INCONCLUSIVE is `skipped`, and a failure under --strict."""
    failed, undecided = len(report.of("FAIL")), len(report.of("INCONCLUSIVE"))
    nothing = report.code == "nothing-measured" and not failed
    counts = {
        "tests": str(len(report.lines) + nothing),
        "failures": str(failed + (undecided if report.strict else 0)),
        "errors": str(int(nothing)),
        "skipped": str(0 if report.strict else undecided),
    }
    root = ET.Element("testsuites", {"name": "gram-bench gate", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _text(f"{report.run_id} on {report.device}"), **counts})
    if nothing:
        case = ET.SubElement(suite, "testcase", classname="gram-bench", name="the run")
        ET.SubElement(case, "error", type=report.code, message=_text(report.reason))
    for line in report.lines:
        case = ET.SubElement(suite, "testcase", classname=_text(line.case_title), name=_text(line.label))
        check = line.deciding
        reasons = "\n".join(f"{each.verdict} {each.code}: {each.reason}" for each in line.checks)
        if check.verdict == "FAIL" or (report.strict and check.verdict == "INCONCLUSIVE"):
            ET.SubElement(case, "failure", type=check.code, message=_text(check.reason)).text = _text(reasons)
        elif check.verdict == "INCONCLUSIVE":
            ET.SubElement(case, "skipped", type=check.code, message=_text(f"INCONCLUSIVE: {check.reason}"))
        ET.SubElement(case, "system-out").text = _text(reasons)
    ET.SubElement(suite, "system-out").text = _text("\n".join([report.reason, *conditions(report)]))
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _text(text: str) -> str:
    """Without the control characters that no XML may hold: a worker's last words may have some."""
    return "".join(sign for sign in text if sign in "\t\n" or (sign >= " " and sign not in "\ufffe\uffff"))
