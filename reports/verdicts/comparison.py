"""Two runs side by side in the terminal: what differs between the places, then every line."""

import math
from collections import Counter

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.results import differences
from bench.results.analysis.comparison import EQUAL_WITHIN, Compared, compare
from bench.results.analysis.decisions import Difference
from bench.results.analysis.lines import LineResult, lines
from bench.results.analysis.stats import Estimate
from bench.results.store import LoadedRun
from reports import numbers, words

_STYLES = {"faster": "green", "slower": "bold red", "same": "dim", "unclear": "yellow"}


def print_comparison(a: LoadedRun, b: LoadedRun, console: Console) -> None:
    """Environments and settings first, then the lines, then how many came out how."""
    for name, run in (("A", a), ("B", b)):
        info = run.info
        started = numbers.moment(info.started_at)
        console.print(Text(f"{name}: {info.run_id}, {info.environment.device}, preset {info.preset}, {started}"))
    compared = compare(lines(a.records), lines(b.records))
    _print_differences(a, b, console)
    _print_inputs(compared, console)
    console.print()
    console.print(_table(compared))
    counts = Counter(each.word for each in compared)
    sentence = words.listing(f"{amount} {word}" for word, amount in counts.items()) or "no line in either run"
    console.print(
        Text(
            f"{sentence}. Speed-ups are against e2e within each run; "
            f"same: surely within {numbers.percent(EQUAL_WITHIN)}; intervals are 95 %, each line's own.",
            style="dim",
        )
    )


def _print_differences(a: LoadedRun, b: LoadedRun, console: Console) -> None:
    places = a.info.environment, b.info.environment
    decisive = differences.decisive(*places)
    other = [*differences.further(*places), *differences.settings(a.info.config, b.info.config)]
    if decisive:
        sentence = f"Measured on different machines, so differences need not be the code's: {'; '.join(decisive)}."
        console.print(Text(sentence, style="bold yellow"))
    if other:
        console.print(Text(f"{'Also different' if decisive else 'Different'}: {'; '.join(other)}.", style="yellow"))
    if not decisive and not other:
        console.print(Text("Environments and settings are the same.", style="dim"))


def _print_inputs(compared: tuple[Compared, ...], console: Console) -> None:
    """Logs and encoders that are another one in B, or may be."""
    different, unknown = differences.of_lines((each.a, each.b) for each in compared if each.a and each.b)
    if different:
        sentence = "; ".join(map(str, different))
        console.print(Text(f"Not measured on the same, A and B: {sentence}.", style="bold yellow"))
    for each in compared:
        if each.input_changes:
            console.print(
                Text(f"The input of {each.line.title} differs: {', '.join(each.input_changes)}.", style="yellow")
            )
    if unknown:
        sentence = f"Whether these are the same is not known, since a run keeps no hash of them: {'; '.join(unknown)}."
        console.print(Text(sentence, style="yellow"))


def _table(compared: tuple[Compared, ...]) -> RichTable:
    drawn = RichTable(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    drawn.add_column("Line", overflow="fold")
    for heading in ("A", "B", "B / A"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("Verdict")
    for each in compared:
        drawn.add_row(
            Text(each.line.title),
            _side(each.a),
            _side(each.b),
            _difference(each.difference),
            Text(_verdict(each), style=_STYLES.get(each.word, "yellow")),
        )
    return drawn


def _side(line: LineResult | None) -> str:
    if line is None:
        return numbers.MISSING
    if line.speed_up is None:
        return numbers.MISSING if line.outcome == "ok" else words.OUTCOMES[line.outcome]
    return estimated(line.speed_up)


def estimated(estimate: Estimate) -> str:
    """A speed-up with its interval."""
    spread = numbers.ratio_range(*estimate.interval) if estimate.interval else "one block"
    return f"{numbers.times(estimate.value, *(estimate.interval or ()))} ({spread})"


def _difference(found: Difference | None) -> str:
    if found is None:
        return numbers.MISSING
    change = f"{100 * math.expm1(found.log_difference):+.1f} %"
    if found.low is None or found.high is None:
        return change
    return f"{change} ({100 * math.expm1(found.low):+.1f} to {100 * math.expm1(found.high):+.1f} %)"


def _verdict(each: Compared) -> str:
    if each.word == "outcome" and each.a and each.b:
        return f"{words.OUTCOMES[each.a.outcome]}, then {words.OUTCOMES[each.b.outcome]}"
    return each.word
