"""MIND as Microsoft ships it: folders with news.tsv and behaviors.tsv, tab-separated, without header or quotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.workloads._base import MalformedData
from bench.workloads._impressions import ImpressionWriter
from bench.workloads._lines import lines

NEWS_FILE, BEHAVIOR_FILE = "news.tsv", "behaviors.tsv"
NEWS_FIELDS = ("id", "category", "subcategory", "title", "abstract", "url", "title entities", "abstract entities")
BEHAVIOR_FIELDS = ("impression id", "user", "time", "history", "impressions")

EMPTY = -2


def read_news(
    folders: Sequence[Path], with_abstract: bool, bodies: dict[str, str]
) -> tuple[dict[str, int], list[str], Counter[str]]:
    """Number of each news id (EMPTY where it has no text), texts by number, and how many lines were dropped.

    An id that comes again, as most of dev's do, keeps its first text. Raises MalformedData naming file and line.
    """
    numbers: dict[str, int] = {}
    texts: list[str] = []
    dropped: Counter[str] = Counter()
    for path in (folder / NEWS_FILE for folder in folders):
        for number, line in lines(path):
            fields = line.split("\t")
            if len(fields) != len(NEWS_FIELDS) or not fields[0]:
                raise MalformedData(
                    f"{path}, line {number}: expected {len(NEWS_FIELDS)} fields ({', '.join(NEWS_FIELDS)}), found "
                    f"{len(fields)}"
                )
            if fields[0] in numbers:
                continue
            parts = [fields[3], fields[4] if with_abstract else "", bodies.get(fields[0], "")]
            text = " ".join(part.strip() for part in parts if part.strip())
            numbers[fields[0]] = len(texts) if text else EMPTY
            if text:
                texts.append(text)
            else:
                dropped["news with an empty text"] += 1
    if not texts:
        raise MalformedData(f"{folders[0] / NEWS_FILE}: there are no news with a text")
    return numbers, texts, dropped


def read_bodies(path: Path) -> dict[str, str]:
    """Body of each news id; raises MalformedData naming file and line."""
    found: dict[str, str] = {}
    for number, line in lines(path):
        news, tab, body = line.partition("\t")
        if not tab or not news:
            raise MalformedData(f"{path}, line {number}: expected a news id, a tab and the body")
        found[news] = body
    return found


def write_impressions(folder: Path, news: dict[str, int], writer: ImpressionWriter) -> tuple[int, Counter[str]]:
    """Hands every impression to `writer`; returns how many were read, and what of them was dropped, by reason.

    Raises MalformedData naming file and line.
    """
    path = folder / BEHAVIOR_FILE
    dropped: Counter[str] = Counter()
    seen: set[int] = set()
    read = 0
    for number, line in lines(path):
        read += 1
        fields = line.split("\t")
        if len(fields) != len(BEHAVIOR_FIELDS):
            raise MalformedData(
                f"{path}, line {number}: expected {len(BEHAVIOR_FIELDS)} fields ({', '.join(BEHAVIOR_FIELDS)}), found "
                f"{len(fields)}"
            )
        if (fingerprint := hash(line)) in seen:
            dropped["duplicate line"] += 1
            continue
        seen.add(fingerprint)
        history = _numbers(fields[3].split(), news, dropped)
        shown, clicked = [], []
        for entry in fields[4].split():
            item, dash, label = entry.rpartition("-")
            if not dash or label not in ("0", "1"):
                raise MalformedData(
                    f'{path}, line {number}: "{entry}" is no news id with -1 (clicked) or -0; the test split has none'
                )
            if found := _numbers([item], news, dropped):
                shown += found
                clicked.append(label == "1")
        if not any(clicked):
            dropped["impression without a click"] += 1
        elif all(clicked):
            dropped["impression where all was clicked"] += 1
        else:
            writer.append(history, shown, clicked)
    return read, dropped


def _numbers(ids: list[str], news: dict[str, int], dropped: Counter[str]) -> list[int]:
    found = []
    for name in ids:
        number = news.get(name)
        if number is None:
            dropped["id that is in no news.tsv"] += 1
        elif number == EMPTY:
            dropped["id of news with an empty text"] += 1
        else:
            found.append(number)
    return found
