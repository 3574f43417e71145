"""Files of MovieLens that do not hold what they should are errors that name the file and the line."""

import pytest

from bench.workloads._base import MalformedData
from bench.workloads._io import movielens_files

LOG = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEMS = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tComedy\n"


@pytest.mark.parametrize(
    ("log", "items", "message"),
    [
        (LOG + "1\t1\t3\t9\n1\t1\t3\n", ITEMS, r"ml-100k\.inter, line 3: expected 4 fields, found 3"),
        (LOG + "1\t1\tthree\t9\n", ITEMS, r"ml-100k\.inter, line 2: .* must be whole"),
        (LOG + "1\t2\t3\t9\n", ITEMS, r"ml-100k\.inter, line 2: item 2 is not in ml-100k\.item"),
        (LOG + "1\t1\t6\t9\n", ITEMS, r"ml-100k\.inter, line 2: rating 6 is not between 1 and 5"),
        (LOG, ITEMS, r"ml-100k\.inter, line 2: there is no rating"),
        ("", ITEMS, r"ml-100k\.inter, line 1: the file is empty"),
        (LOG.replace("rating", "stars"), ITEMS, r"ml-100k\.inter, line 1: expected the columns user_id:token"),
        (LOG + "1\t1\t3\t9\n", ITEMS + "x\tHeat\t1995\tCrime\n", r"ml-100k\.item, line 3: expected a whole item"),
        (LOG + "1\t1\t3\t9\n", ITEMS + "1\tHeat\t1995\tCrime\n", r"ml-100k\.item: an item number appears twice"),
    ],
)
def test_malformed_data_is_an_error_naming_file_and_line(tmp_path, log, items, message):
    (tmp_path / "ml-100k.inter").write_text(log)
    (tmp_path / "ml-100k.item").write_text(items)
    with pytest.raises(MalformedData, match=message):
        movielens_files.read_log(tmp_path)


def test_bytes_that_are_no_text_or_no_database_are_errors_naming_the_file(tmp_path):
    (tmp_path / "ml-100k.item").write_bytes(ITEMS.encode() + b"\xff\xfe")
    with pytest.raises(MalformedData, match=r"ml-100k\.item, line \d: not UTF-8"):
        movielens_files.read_log(tmp_path)
    (tmp_path / "movies.db").write_text("no database " * 1_000)
    film = movielens_files.Film("Heat", 1995, ())
    with pytest.raises(MalformedData, match=r"movies\.db: no film can be read"):
        movielens_files.film_texts((film,), tmp_path, "full")
