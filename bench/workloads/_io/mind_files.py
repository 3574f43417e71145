"""MIND as Microsoft ships it: folders with news.tsv and behaviors.tsv, tab-separated, without header or quotes."""

from collections.abc import Sequence
from pathlib import Path

from bench.workloads._base import MalformedData, lines
from bench.workloads._io.dropped import Dropped
from bench.workloads._log.impressions import ImpressionWriter

NEWS_FILE, BEHAVIOR_FILE = "news.tsv", "behaviors.tsv"
NEWS_FIELDS = ("id", "category", "subcategory", "title", "abstract", "url", "title entities", "abstract entities")
BEHAVIOR_FIELDS = ("impression id", "user", "time", "history", "impressions")

EMPTY = -2


def read_news(
    folders: Sequence[Path], with_abstract: bool, bodies: dict[str, str]
) -> tuple[dict[str, int], list[str], Dropped]:
    """Number of each news id (EMPTY where it has no text), texts by number, and which news were dropped.

    An id that comes again, as most of dev's do, keeps its first text. Raises MalformedData naming file and line.
    """
    numbers: dict[str, int] = {}
    texts: list[str] = []
    dropped = Dropped("news")
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
            dropped.read += 1
            parts = [fields[3], fields[4] if with_abstract else "", bodies.get(fields[0], "")]
            text = " ".join(part.strip() for part in parts if part.strip())
            numbers[fields[0]] = len(texts) if text else EMPTY
            if text:
                texts.append(text)
            else:
                dropped.add("news with an empty text", 1, f"{path}, line {number}")
    if not texts:
        raise MalformedData(f"{folders[0] / NEWS_FILE}: there are no news with a text{dropped.why()}")
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


def write_impressions(
    folder: Path, news: dict[str, int], writer: ImpressionWriter, split: str
) -> tuple[Dropped, Dropped, Dropped]:
    """Hands every impression to `writer`; returns what of impressions, of clicks and of ids was read and dropped.

    split: what the three are named after. Raises MalformedData naming file and line.
    """
    path = folder / BEHAVIOR_FILE
    impressions, clicks, ids = (Dropped(f"{split}_{what}") for what in ("impressions", "clicks", "ids"))
    seen: set[int] = set()
    for number, line in lines(path):
        place = f"{path}, line {number}"
        impressions.read += 1
        fields = line.split("\t")
        if len(fields) != len(BEHAVIOR_FIELDS):
            raise MalformedData(
                f"{place}: expected {len(BEHAVIOR_FIELDS)} fields ({', '.join(BEHAVIOR_FIELDS)}), found {len(fields)}"
            )
        if (fingerprint := hash(line)) in seen:
            impressions.add("duplicate line", 1, place)
            continue
        seen.add(fingerprint)
        history = [found for name in fields[3].split() if (found := _number(name, news, ids, place)) is not None]
        shown, clicked, known = [], [], []
        for entry in fields[4].split():
            item, dash, label = entry.rpartition("-")
            if not dash or label not in ("0", "1"):
                raise MalformedData(
                    f'{place}: "{entry}" is no news id with -1 (clicked) or -0; the test split has none'
                )
            found = _number(item, news, ids, place)
            clicked.append(label == "1")
            known.append(found is not None)
            if found is not None:
                shown.append((found, label == "1"))
        clicks.read += sum(clicked)
        kept = [was_clicked for _, was_clicked in shown]
        clicks.add("click on news without a text", sum(clicked) - sum(kept), place)
        reason = _unusable(clicked, known)
        if reason is None:
            writer.append(history, [item for item, _ in shown], kept)
        else:
            impressions.add(reason, 1, place)
            clicks.add(reason, sum(kept), place)
    return impressions, clicks, ids


def _unusable(clicked: list[bool], known: list[bool]) -> str | None:
    """Why nothing can be learned of an impression, where that is so; known: whether a shown item has a text."""
    kept = [was_clicked for was_clicked, there in zip(clicked, known, strict=True) if there]
    if any(kept) and not all(kept):
        return None
    if not any(clicked):
        return "impression without a click"
    if all(clicked):
        return "impression where all was clicked"
    if not any(kept):
        return "impression whose clicked news have no text"
    return "impression whose news that were not clicked have no text"


def _number(name: str, news: dict[str, int], ids: Dropped, place: str) -> int | None:
    """The number of an id whose news has a text; None, counted, for any other."""
    ids.read += 1
    number = news.get(name)
    if number is None:
        ids.add("id that is in no news.tsv", 1, f"{place}, {name}")
        return None
    if number == EMPTY:
        ids.add("id of news with an empty text", 1, f"{place}, {name}")
        return None
    return number
