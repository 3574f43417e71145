"""The two files of `table` are read strictly: every value as it is written, and the first row that cannot be, named."""

import csv
import io
import itertools
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads._base import MalformedData
from bench.workloads._io.table_files import read_interactions, read_items

HEADER = "user_id,item_id,timestamp,label\n"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SUFFIXES = {".csv": ",", ".tsv": "\t"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def written(folder, content, suffix=".csv"):
    path = folder / f"file{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def times(path):
    return [(int(each["whole"]), float(each["fraction"])) for part in read_interactions(path) for each in part.times]


def timed(folder, *stamps):
    return written(folder, HEADER + "".join(f"u,i,{stamp},1\n" for stamp in stamps))


@given(
    texts=st.lists(TEXT.filter(str.strip), min_size=1, max_size=6),
    suffix=st.sampled_from(sorted(SUFFIXES)),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_writes_is_read_back(folder, texts, suffix, end):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=SUFFIXES[suffix], lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "more", "item_id"], *([text, '"', number] for number, text in enumerate(texts))])
    numbers, found, _ = read_items(written(folder, stream.getvalue(), suffix))
    assert found == [text.strip() for text in texts]
    assert numbers == {str(number): number for number in range(len(texts))}


@given(
    content=st.lists(st.sampled_from(["a", "b", '"', ",", "\n", "\r", "\r\n", "\x00", "é", "\ufeff"]), max_size=30),
    suffix=st.sampled_from(sorted(SUFFIXES)),
)
def test_whatever_a_file_holds_its_rows_are_read_or_its_line_is_named(folder, content, suffix):
    """No character makes the parser's own errors come through, nor a row disappear."""
    separator = SUFFIXES[suffix]
    path = written(folder, f"item_id{separator}text\nfirst{separator}text\n" + "".join(content), suffix)
    try:
        _, _, dropped = read_items(path)
    except MalformedData as error:
        named = f"{path}, line " in str(error)
        assert named, error  # noqa: PT017 - whether it is raised is what the parser decides
    else:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), delimiter=separator))
        assert dropped.read == sum(bool(row) for row in rows) - 1


CLOSED_LATER = 'item_id,text\na,one\nb,"two\nc,three\nd,"four\n'
MALFORMED = {
    "a mark that nothing closes": ('item_id,text\na,one\nb,"two\nc,three\n', 3, "nothing closes it"),
    "a mark that another row's closes": (CLOSED_LATER, 3, "closed at line 5 only"),
    "text behind a closing mark": ('item_id,text\na,one\nb,"two" three\n', 3, "text follows the quotation mark"),
    "a missing field": ("item_id,text\na,one\n\nb\n", 4, "expected 2 fields, found 1"),
    "a surplus field": ("item_id,text\na,one\nb,two,three\n", 3, "expected 2 fields, found 3"),
    "a surplus empty field": ("item_id,text\na,one,\n", 2, "expected 2 fields, found 3"),
    "a bare carriage return": ("item_id,text\na,one\nb,two\rthree\n", 3, "a carriage return"),
    "lines that end with it": ("item_id,text\ra,one\rb,two\r", 1, "a carriage return"),
    "a field behind one of two lines": ('item_id,text\na,"one\ntwo"\nb\n', 4, "expected 2 fields, found 1"),
    "a column twice": ("item_id,text,text\na,one,two\n", 1, "there are 2 columns text"),
    "no column": ("item_id,txt\na,one\n", 1, "text is not among item_id, txt"),
    "no id": ("item_id,text\na,one\n,two\n", 3, "there is no item_id"),
    "bytes of another encoding": ("item_id,text\na,one\nb,\xfc\n".encode("latin-1"), 3, "not UTF-8"),
}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@pytest.mark.parametrize("case", sorted(MALFORMED))
def test_a_malformed_row_of_items_is_named_by_file_and_line(folder, case, suffix):
    content, line, reason = MALFORMED[case]
    separated = content.replace(b"," if isinstance(content, bytes) else ",", SUFFIXES[suffix].encode()
                                if isinstance(content, bytes) else SUFFIXES[suffix])  # fmt: skip
    path = written(folder, separated, suffix)
    with pytest.raises(MalformedData) as raised:
        read_items(path)
    assert str(raised.value).startswith(f"{path}, line {line}: ")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('"ann,i,1,1\n"ann,i,2,1\nbob,i,3,1\n', 2),
        ("ann,i,1,1\nann,i,2\n", 3),
        ("ann,i,1,1\nann,i,2,1,\n", 3),
        ("ann,i,1,1\nann,i,2,inf\n", 3),
        ("ann,i,1,1\nann,i,,1\n", 3),
        ("ann,i,1,1\nann,,2,1\n", 3),
        ("ann,i,1,1\nann,i,nan,1\n", 3),
        ("ann,i,1,1\nann,i,9223372036854775808,1\n", 3),
        ("ann,i,1,1\nann\rbob,i,2,1\n", 3),
    ],
)
def test_a_malformed_interaction_is_named_by_file_and_line(folder, rows, line):
    path = written(folder, HEADER + rows)
    with pytest.raises(MalformedData, match=rf"file\.csv, line {line}: "):
        list(read_interactions(path))


def test_a_quoted_field_keeps_its_line_ends_and_carriage_returns(folder):
    _, texts, _ = read_items(written(folder, 'item_id,text\na,"one\r\ntwo\rthree, ""four"""\nb,5" disk\n'))
    assert texts == ['one\r\ntwo\rthree, "four"', '5" disk']


def test_a_field_without_end_does_not_take_the_file_into_memory(folder, monkeypatch):
    monkeypatch.setattr("bench.workloads._io.delimited.LONGEST_FIELD", 100)
    with pytest.raises(MalformedData, match=r"line 2: a quotation mark opens a field of more than 100 characters"):
        read_items(written(folder, 'item_id,text\na,"' + 30 * "long\n"))


@given(st.lists(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1), min_size=1, max_size=5))
def test_whole_times_of_any_size_keep_every_digit(folder, stamps):
    assert times(timed(folder, *stamps)) == [(stamp, 0.0) for stamp in stamps]


@given(whole=st.integers(min_value=0, max_value=2**40), parts=st.lists(st.integers(0, 999_999_999), min_size=2))
def test_decimal_times_order_to_the_nanosecond(folder, whole, parts):
    found = times(timed(folder, *(f"{whole}.{part:09}" for part in parts)))
    assert np.argsort([part for part in parts], kind="stable").tolist() == sorted(
        range(len(parts)), key=lambda row: found[row]
    )
    assert {each[0] for each in found} == {whole}


def test_dates_keep_nanoseconds_and_negative_numbers_their_order(folder):
    stamps = ["2024-05-17T08:30:00.123456788", "2024-05-17T08:30:00.123456789Z", "2024-05-17T10:30:00.12345679+02:00"]
    found = times(timed(folder, *stamps))
    assert found == sorted(found)
    assert len(set(found)) == 3
    assert times(timed(folder, "-1.5", "-1", "1e3")) == [(-2, 0.5), (-1, 0.0), (1000, 0.0)]


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (["1", "2024-05-17"], r'line 2: the timestamp "1" \(line 2\) is a number|is a date'),
        (["2024-05-17", "1715934600"], r"line 3: .* is a date and .* a number; write all as one"),
        (
            ["1715934600", "1715934600000"],
            r"count in several units, 1715934600 \(line 2\) in seconds and 17.*milliseconds",
        ),
        (["1715934600123", "1715934600123456789", "1715934600124"], r"in milliseconds and .* in nanoseconds"),
    ],
)
def test_times_in_several_units_are_refused(folder, stamps, message):
    with pytest.raises(MalformedData, match=message):
        times(timed(folder, *stamps))


def test_counters_that_pass_a_century_are_no_dates(folder):
    assert len(times(timed(folder, 5, 1715934600, 1715934600000))) == 3


class TestParquet:
    """Columns by their Arrow type."""

    @pytest.fixture
    def save(self, folder):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def saved(**columns):
            path = folder / "file.parquet"
            parquet.write_table(pyarrow.table(columns), path)
            return path

        return saved

    @pytest.fixture
    def log(self, save):
        def saved(**columns):
            rows = len(next(iter(columns.values())))
            usual = {"user_id": ["u"] * rows, "item_id": ["i"] * rows, "timestamp": [*range(rows)], "label": [1] * rows}
            return save(**{**usual, **columns})

        return saved

    def test_text_of_every_kind_is_read_alike(self, save):
        pyarrow = pytest.importorskip("pyarrow")
        for kind in (
            pyarrow.string(),
            pyarrow.large_string(),
            pyarrow.binary(),
            pyarrow.large_binary(),
            pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        ):
            texts = ["får", None, "æ"]
            if kind in (pyarrow.binary(), pyarrow.large_binary()):
                texts = [text and text.encode() for text in texts]
            path = save(item_id=["a", "b", "c"], text=pyarrow.array(texts).cast(kind))
            numbers, found, dropped = read_items(path)
            assert (numbers, found) == ({"a": 0, "b": -2, "c": 1}, ["får", "æ"])
            assert dropped.counts == {"item with an empty text": 1}
            assert dropped.examples == {"item with an empty text": 'row 2, item_id "b"'}

    def test_whole_numbers_are_ids_even_beyond_a_floats_digits(self, save):
        assert read_items(save(item_id=[7, 2**62 + 1], text=["x", "y"]))[0] == {"7": 0, str(2**62 + 1): 1}

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ([["a"], ["b"]], "list<.*string>"),
            ([{"da": "a"}, {"da": "b"}], "struct<da: string>"),
            ([1.5, 2.5], "double"),
            ([1, 2], "int64"),
            ([True, False], "bool"),
            ([datetime(2024, 5, 17), datetime(2024, 5, 18)], "timestamp"),
        ],
    )
    def test_a_type_that_is_no_text_is_refused_by_file_and_column(self, save, text, kind):
        with pytest.raises(MalformedData, match=rf"file\.parquet: the column text is of type {kind}.*; expected text"):
            read_items(save(item_id=["a", "b"], text=text))

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("user_id", [1.0, 2.0]),
            ("item_id", [["i"], ["j"]]),
            ("timestamp", [[1], [2]]),
            ("timestamp", [True, False]),
            ("timestamp", [timedelta(1), timedelta(2)]),
            ("label", [date(2024, 5, 17), date(2024, 5, 18)]),
        ],
    )
    def test_a_type_of_no_role_is_refused_by_file_and_column(self, log, column, values):
        with pytest.raises(MalformedData, match=rf"file\.parquet: the column {column} is of type .*; expected "):
            list(read_interactions(log(**{column: values})))

    @pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "label"])
    @pytest.mark.parametrize("values", [[1, None], ["1", None], [1, 2, None]])
    def test_a_null_is_found_before_anything_is_converted(self, log, column, values):
        with pytest.raises(MalformedData, match=rf"file\.parquet, row {len(values)}: there is no {column}"):
            list(read_interactions(log(**{column: values})))

    def test_bytes_of_another_encoding_are_named_by_row(self, save):
        with pytest.raises(MalformedData, match=r"file\.parquet, row 2: the text cannot be read"):
            read_items(save(item_id=["a", "b"], text=["får".encode(), "får".encode("latin-1")]))

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_times_of_every_unit_keep_every_digit(self, log, unit):
        pyarrow = pytest.importorskip("pyarrow")
        counts = [1_715_934_600_123_456_789 + step for step in (2, 0, 1)]
        counts = [
            count // {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit] + step for step, count in enumerate(counts)
        ]
        for zone in (None, "Europe/Copenhagen"):
            path = log(timestamp=pyarrow.array(counts, pyarrow.timestamp(unit, zone)))
            per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
            assert times(path) == [(count // per, count % per / per) for count in counts]

    def test_numbers_of_every_kind_are_times(self, log):
        pyarrow = pytest.importorskip("pyarrow")
        large = 2**53
        assert times(log(timestamp=[large + 1, large])) == [(large + 1, 0.0), (large, 0.0)]
        assert times(log(timestamp=[1.5, -0.25])) == [(1, 0.5), (-1, 0.75)]
        assert times(log(timestamp=[Decimal("1.5"), Decimal("2.25")])) == [(1, 0.5), (2, 0.25)]
        assert times(log(timestamp=[date(1970, 1, 2)])) == [(86_400, 0.0)]
        assert times(log(timestamp=pyarrow.array([date(1970, 1, 2)], pyarrow.date64()))) == [(86_400, 0.0)]
        assert times(log(timestamp=["2024-05-17"])) == [(int(datetime(2024, 5, 17, tzinfo=UTC).timestamp()), 0.0)]
        with pytest.raises(MalformedData, match=r"row 2: the timestamp cannot be read"):
            times(log(timestamp=pyarrow.array([1, 2**63], pyarrow.uint64())))
        with pytest.raises(MalformedData, match=r'row 2: the timestamp "nan" is not a number'):
            times(log(timestamp=[1.0, float("nan")]))

    def test_labels_of_every_kind_are_numbers(self, log):
        for labels in ([1, 0], [1.0, 0.0], [True, False], ["1", "0"], [Decimal("1.0"), Decimal("0.0")]):
            assert [float(label) for part in read_interactions(log(label=labels)) for label in part.labels] == [1, 0]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_are_named_and_ordered_alike_whatever_is_read_at_once(folder, monkeypatch, suffix):
    monkeypatch.setattr("bench.workloads._io.delimited.CHUNK", 2)
    monkeypatch.setattr("bench.workloads._io.parquet.CHUNK", 2)
    rows = [("u", f"i{n}", n, 1 if n < 7 else "good") for n in range(9)]
    path = folder / f"parts{suffix}"
    if suffix == ".csv":
        path.write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = zip(*[(*row[:3], str(row[3])) for row in rows], strict=True)
        parquet.write_table(pyarrow.table(dict(zip(HEADER.strip().split(","), columns, strict=True))), path)
    parts, found = read_interactions(path), []
    for part in itertools.islice(parts, 3):
        found += [(int(each["whole"]), item) for each, item in zip(part.times, part.items, strict=True)]
    with pytest.raises(MalformedData, match=r'line 9: the label "good"|row 8: the label "good"'):
        next(parts)
    assert found == [(n, f"i{n}") for n in range(6)]
