"""MovieLens-100k as it lies on disk, and its films' texts: title and genres, with what Wikidata knows of the film.

The log has titles and genres only; the films' file adds director, writers, cast, countries and languages, joined by
normalised title and by a year that differs by one at most (years of production and release differ so often).
"""

import re
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import MalformedData, lines

LOG_FILE, ITEM_FILE, FILM_FILE = "ml-100k.inter", "ml-100k.item", "movies.db"
LOG_HEADER = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
ITEM_HEADER = ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"]
FILM_COLUMNS = ("Title", "Year", "Genre", "Director", "Writer", "Cast", "Country", "Language")

_ARTICLE_LAST = re.compile(r"^(.*), (the|an?|l[aeo]s?|l'|les|il|el|das|der|die|det)$", re.IGNORECASE)


@dataclass(frozen=True)
class Film:
    """One item of the log. year: None where the log has none."""

    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Log:
    """Ratings sorted by user, then time, then place in the file.

    films [I]; users, items, ratings int64 [R]: user 0 .. U-1, item as index of `films`, rating 1 .. 5; starts [U + 1]:
    where each user's ratings start.
    """

    films: tuple[Film, ...]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    ratings: NDArray[np.int64]
    starts: NDArray[np.int64]


def read_log(folder: Path) -> Log:
    """The log of a folder; raises MalformedData naming file and line."""
    numbers, films = _read_films(folder / ITEM_FILE)
    index = {number: place for place, number in enumerate(numbers)}
    path = folder / LOG_FILE
    rows: list[tuple[int, int, int, int]] = []
    for line, (user, item, rating, timestamp) in _rows(path, LOG_HEADER):
        try:
            row = int(user), index.get(int(item), -1), int(rating), int(timestamp)
        except ValueError as error:
            raise MalformedData(f"{path}, line {line}: user, item, rating and timestamp must be whole") from error
        if row[1] < 0:
            raise MalformedData(f"{path}, line {line}: item {item} is not in {ITEM_FILE}")
        if not 1 <= row[2] <= 5:
            raise MalformedData(f"{path}, line {line}: rating {rating} is not between 1 and 5")
        rows.append(row)
    if not rows:
        raise MalformedData(f"{path}, line 2: there is no rating")
    table = np.asarray(rows, dtype=np.int64)
    table = table[np.lexsort((table[:, 3], table[:, 0]))]  # stable: ties keep the file's order
    _, first, users = np.unique(table[:, 0], return_index=True, return_inverse=True)
    return Log(films, users, table[:, 1], table[:, 2], np.append(first, len(table)))


def film_texts(
    films: tuple[Film, ...], folder: Path, texts: Literal["title", "full"]
) -> tuple[list[str], NDArray[np.bool_]]:
    """One text per film, and which films [I] the films' file knows; raises MalformedData naming the file."""
    known = _read_records(folder / FILM_FILE)
    records = [_match(film, known) for film in films]
    written = [_text(film, record if texts == "full" else None) for film, record in zip(films, records, strict=True)]
    return written, np.asarray([record is not None for record in records])


def normalised(title: str) -> str:
    """A title to compare by: no case, accents, articles, punctuation or bracketed additions."""
    title = _plain_title(re.sub(r"\([^)]*\)", "", title))
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter)).replace("&", "and")
    return re.sub(r"[\W_]+", "", re.sub(r"^(the|an?) ", "", letters))


def _read_films(path: Path) -> tuple[list[int], tuple[Film, ...]]:
    numbers: list[int] = []
    films: list[Film] = []
    for line, (number, title, year, genres) in _rows(path, ITEM_HEADER):
        if not number.isdecimal() or not title:
            raise MalformedData(f"{path}, line {line}: expected a whole item number and a title")
        dated = re.fullmatch(r"(.*) \((\d{4})\)", title)  # one title of the file carries its year
        released = int(year) if year.isdecimal() else int(dated[2]) if dated else None
        numbers.append(int(number))
        films.append(Film(_plain_title(dated[1] if dated else title), released, tuple(genres.split())))
    if len(set(numbers)) != len(numbers):
        raise MalformedData(f"{path}: an item number appears twice")
    return numbers, tuple(films)


def _rows(path: Path, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line after the header."""
    line = 0
    for line, text in lines(path):
        fields = text.split("\t")
        if line == 1 and fields != header:
            raise MalformedData(f"{path}, line 1: expected the columns {', '.join(header)}")
        if len(fields) != len(header):
            raise MalformedData(f"{path}, line {line}: expected {len(header)} fields, found {len(fields)}")
        if line > 1:
            yield line, fields
    if line == 0:
        raise MalformedData(f"{path}, line 1: the file is empty")


def _plain_title(title: str) -> str:
    """ "Professional, The" as "The Professional"."""
    moved = _ARTICLE_LAST.match(title.strip())
    return f"{moved[2]} {moved[1]}" if moved else title.strip()


def _read_records(path: Path) -> dict[str, list[dict[str, str]]]:
    """What the films' file knows, by normalised title, in the order of its ids."""
    columns = ", ".join(f"[{column}]" for column in FILM_COLUMNS)
    query = f"SELECT {columns} FROM omdb ORDER BY ID"
    known: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            for row in connection.execute(query):
                record = dict(zip(FILM_COLUMNS, (str(value or "") for value in row), strict=True))
                if record["Title"] and record["Year"].isdecimal():
                    known[normalised(record["Title"])].append(record)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise MalformedData(f"{path}: no film can be read ({error})") from error
    return known


def _match(film: Film, known: dict[str, list[dict[str, str]]]) -> dict[str, str] | None:
    """The record of the same title nearest in year, one year apart at most."""
    if film.year is None:
        return None
    year = film.year
    near = [record for record in known.get(normalised(film.title), ()) if abs(int(record["Year"]) - year) <= 1]
    return min(near, key=lambda record: abs(int(record["Year"]) - year), default=None)


def _text(film: Film, record: dict[str, str] | None) -> str:
    genres = list(film.genres)
    if record is not None:
        present = {genre.casefold() for genre in genres}
        genres += [genre for genre in record["Genre"].split(", ") if genre and genre.casefold() not in present]
    title = film.title if film.year is None else f"{film.title} ({film.year})"
    sentences = [title, ", ".join(genres)]
    if record is not None:
        for words, column in (("Directed by ", "Director"), ("Written by ", "Writer"), ("With ", "Cast")):
            sentences.append(words + record[column] if record[column] else "")
        sentences += [record["Country"], record["Language"]]
    return "".join(f"{sentence}. " for sentence in sentences if sentence).strip()
