"""`table`: any log as two files; what is dropped is counted, what is malformed is named with its line."""

import importlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from bench.commands.session import fetch_assets
from bench.configuration.config import load
from bench.errors import UsageError
from bench.workloads import table
from bench.workloads._base import MalformedData
from bench.workloads._log import external_sort, interaction_log
from tests.bench._logs import epoch, request, scored

ITEMS = 'item_id,text\na,first text\nb,"second, with a comma"\nc,third\nd,fourth\ne,\n'
HEADER = "user_id,item_id,timestamp,label\n"
ROWS = (
    "u1,b,20,1\nu1,a,10,0\nu2,a,5,1\nu1,c,30,1\nu2,d,6,0\nu1,a,10,0\n"  # the last one comes twice
    "u3,a,1,1\n"  # alone
    "u2,x,7,1\nu2,e,8,1\nu2,b,9,1\n"  # no text, empty text
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))

    def written(items=ITEMS, rows=HEADER + ROWS, suffix=".csv"):
        paths = {"items": tmp_path / f"items{suffix}", "interactions": tmp_path / f"interactions{suffix}"}
        for path, text in zip(paths.values(), (items, rows), strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return table.Settings(**{name: str(path) for name, path in paths.items()})

    return written


def responses(workload):
    return sorted(
        tuple(zip(batch.items[batch.mask].tolist(), batch.targets[batch.mask].tolist(), strict=True))
        for batch in epoch(workload)
    )


EXPECTED = [((0, 0.0), (1, 1.0), (2, 1.0)), ((0, 1.0), (3, 0.0), (1, 1.0))]


def test_rows_become_histories_in_order_of_time_and_what_is_dropped_is_told(write):
    workload = table.build(write(), request("response"))
    assert workload.log == "real"
    assert responses(workload) == EXPECTED
    assert workload.facts["rows_read"] == 10
    assert workload.facts["rows_dropped"] == {
        "duplicate row": 1,
        "user with one interaction": 1,
        "item_id without a text": 1,
        "item_id with an empty text": 1,
    }
    assert workload.facts["rows_dropped_examples"] == {
        "duplicate row": 'user_id "u1", item_id "a"',
        "user with one interaction": 'user_id "u3", item_id "a"',
        "item_id without a text": 'line 9, item_id "x"',
        "item_id with an empty text": 'line 10, item_id "e"',
    }
    assert workload.facts["item_rows_dropped"] == {"item with an empty text": 1}
    assert [workload.facts[name] for name in ("users", "items", "interactions")] == [2, 4, 6]
    assert len(workload.table.texts(torch.tensor([1])).tokens) == 4, '"second, with a comma" is one text of four words'


def test_ranking_takes_labels_of_clicks_only(write):
    workload = table.build(write(), request("ranking", candidates=2))
    assert workload.facts["rows_dropped"]["label below positive_from: no click"] == 3
    found = {(int(b.items[0, 5]), int(b.items[0, 6 + b.targets[0]])) for b in epoch(workload)}
    assert found == {(1, 2), (0, 1)}


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_other_formats_give_the_same_log(write, tmp_path, suffix):
    if suffix == ".tsv":
        tabs = [
            text.replace('"second, with a comma"', "second; with a comma").replace(",", "\t") for text in (ITEMS, ROWS)
        ]
        chosen = write(tabs[0], HEADER.replace(",", "\t") + tabs[1], ".tsv")
    else:
        pytest.importorskip("pyarrow")
        csv = write()
        chosen = table.Settings(items=str(tmp_path / "i.parquet"), interactions=str(tmp_path / "x.parquet"))
        pd.read_csv(csv.items).to_parquet(chosen.items)
        pd.read_csv(csv.interactions).to_parquet(chosen.interactions)
    assert responses(table.build(chosen, request("response"))) == EXPECTED


def test_dates_order_as_numbers_do(write):
    dates = {"20": "2024-05-17T08:30:00", "10": "2024-05-17", "30": "2024-05-18T00:00:00Z"}
    rows = "".join(
        ",".join([user, item, dates.get(time, f"2024-01-0{time}"), label]) + "\n"
        for user, item, time, label in (row.split(",") for row in ROWS.split())
    )
    assert responses(table.build(write(rows=HEADER + rows), request("response"))) == EXPECTED


def test_labels_reach_positive_from(write):
    rows = "user_id,item_id,timestamp,label,more\n" + "".join(
        f"u,{item},{n},{n}.5,x\n" for n, item in enumerate("abcd")
    )
    chosen = write(rows=rows).model_copy(update={"positive_from": 2})
    assert responses(table.build(chosen, request("response"))) == [((0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0))]


def test_ids_are_names_whatever_they_look_like(write):
    items = "item_id,text\n007,bond\n7,seven\nNA,not a gap\n"
    workload = table.build(write(items, HEADER + "1.0,007,1,1\n1.0,7,2,1\n1.0,NA,3,0\n1,7,1,1\n"), request("response"))
    assert responses(workload) == [((0, 1.0), (1, 1.0), (2, 0.0))]


@pytest.mark.parametrize(
    ("items", "rows", "message"),
    [
        (ITEMS, ROWS, r"interactions\.csv, line 1: expected the columns user_id, item_id, timestamp, label; user_id"),
        (ITEMS, "", r"interactions\.csv, line 1: expected the columns .* among nothing"),
        (ITEMS, HEADER, r"interactions\.csv: there is no interaction"),
        (ITEMS, HEADER + "u,a,1,1\n\nu,a,1\n", r"interactions\.csv, line 4: expected 4 fields, found 3"),
        (ITEMS, HEADER + "u,a,1,1\nu,a,1,1,1\n", r"interactions\.csv, line 3: expected 4 fields, found 5"),
        (
            ITEMS,
            HEADER + "u,a,1,1\nu,a,soon,1\n",
            r'interactions\.csv, line 3: the timestamp "soon" is not a number, or',
        ),
        (ITEMS, HEADER + "u,a,1,good\n", r'interactions\.csv, line 2: the label "good" is not a number'),
        (ITEMS, HEADER + "u,a,1,1\n,a,1,1\n", r"interactions\.csv, line 3: there is no user_id"),
        (ITEMS, (HEADER + "u,a,1,1\nu,").encode() + b"\xff\xfe,1,1\n", r"interactions\.csv, line 3: not UTF-8"),
        (ITEMS, HEADER + "u,a,1,1\nv,b,1,1\n", r"interactions\.csv: no interaction is left to train on"),
        (ITEMS.encode("utf-16"), HEADER + ROWS, r"items\.csv, line 1: not UTF-8"),
        (ITEMS + "a,another text\n", HEADER + ROWS, r'items\.csv, line 7: item "a" comes again with another text'),
        (ITEMS + "f\n", HEADER + ROWS, r"items\.csv, line 7: expected 2 fields, found 1"),
        (ITEMS + ",text\n", HEADER + ROWS, r"items\.csv, line 7: there is no item_id"),
        ("item_id,text\na,\n", HEADER + ROWS, r"items\.csv: there is no item with a text"),
    ],
)
def test_malformed_files_are_an_error_naming_file_and_line(write, items, rows, message):
    with pytest.raises(MalformedData, match=message):
        table.build(write(items, rows), request("response"))


def test_settings_that_lead_nowhere_are_one_clear_sentence(write, tmp_path, monkeypatch):
    asked = request("response")
    chosen = write()
    for settings, message in (
        (table.Settings(), r"table needs files of your own: set workload\.table\.items"),
        (table.Settings(items=str(tmp_path / "no.csv")), r"workload\.table\.items: there is no file .*no\.csv"),
        (chosen.model_copy(update={"interactions": __file__}), r"workload\.table\.interactions: .* is none of \.csv"),
    ):
        with pytest.raises(ValueError, match=message):
            table.check(settings, asked)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    broken = chosen.model_copy(update={"interactions": str(tmp_path / "x.parquet")})
    if importlib.util.find_spec("pyarrow"):
        with pytest.raises(MalformedData, match=r"x\.parquet: no Parquet file"):
            table.build(broken, asked)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r'needs pyarrow, which is not installed: pip install "gram-bench\[parquet\]"'):
        table.check(broken, asked)


def test_files_are_read_once_and_again_when_they_change(write, monkeypatch):
    chosen = write()
    table.build(chosen, request("response"))
    with monkeypatch.context() as patch:
        patch.setattr(external_sort.UserSort, "write", None)
        assert responses(table.build(chosen, request("response"))) == EXPECTED
    changed = write(rows=HEADER + ROWS + "u2,c,10,0\n")
    assert table.build(changed, request("response")).facts["interactions"] == 7


def test_a_part_of_it_can_be_held_out(write):
    rng = np.random.default_rng(0)
    items = "item_id,text\n" + "".join(f"q{item},text of {item}\n" for item in range(60))
    rows = "".join(f"u{user},q{item},{n},1\n" for user in range(40) for n, item in enumerate(rng.permutation(60)[:12]))
    workload = table.build(write(items, HEADER + rows), request("ranking", hold_out=(0.1, 0.1, 12)))
    trained = {item for batch in epoch(workload) for item in batch.items[batch.mask].tolist()}
    assert not trained & set(workload.cold_items.tolist())
    assert sum(each.batch.users for each in scored(workload.test)) == 40


def test_memory_is_bounded_by_chunks_and_not_by_the_log(tmp_path):
    """3 million rows, 75 MB as they are sorted and 15 MB as a log, in chunks of 2^16: what stays is near nothing."""
    code = f"""
import resource, sys

from pathlib import Path
import numpy as np
from bench.workloads._log import splits, interaction_log, external_sort
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
folder, rng, chunk = Path({str(tmp_path)!r}), np.random.default_rng(0), 1 << 16
def rows():
    return rng.integers(40_000, size=chunk), rng.integers(1000, size=chunk), rng.random(chunk), np.ones(chunk, bool)
rows(), np.lexsort((rng.random(chunk), rng.random(chunk)))
before, sort = peak(), external_sort.UserSort(folder)
for _ in range(46):
    sort.add(*rows())
with interaction_log.LogWriter(folder) as writer:
    done = sort.write(writer, "auto")
    writer.finish(1000)
log = interaction_log.read(folder)
assert log.users == 40_000 and log.interactions + done.alone + done.repeated == 46 * chunk and not done.kept
assert (np.diff(log.starts) > 1).all()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 25e6


def test_a_sorted_log_equals_a_plain_sort(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "user": rng.integers(300, size=4_000),
            "item": rng.integers(5, size=4_000),
            "time": rng.integers(9, size=4_000),
        }
    ).assign(label=rng.integers(2, size=4_000))
    sort = external_sort.UserSort(tmp_path)
    for part in (rows[start : start + 600] for start in range(0, 4_000, 600)):
        sort.add(
            part["user"].to_numpy(), part["item"].to_numpy(), part["time"].to_numpy(float), part["label"].to_numpy()
        )
    with interaction_log.LogWriter(tmp_path) as writer:
        done = sort.write(writer, "auto")
        writer.finish(5)
    log = interaction_log.read(tmp_path)
    plain = rows.drop_duplicates()
    assert (done.repeated, done.alone, done.kept) == (len(rows) - len(plain), 0, False)
    expected = [
        list(zip(mine["item"], mine["label"], strict=True))
        for _, mine in plain.sort_values("time", kind="stable").groupby("user")
    ]
    found = [
        list(zip(log.items[a:b].tolist(), log.labels[a:b].tolist(), strict=True))
        for a, b in zip(log.starts, log.starts[1:], strict=False)
    ]
    assert sorted(found) == sorted(expected)


SCHOOL = [
    ("u1", "a", 1),
    ("u1", "b", 0),
    ("u1", "a", 1),
    ("u1", "b", 0),
    ("u2", "c", 1),
    ("u2", "c", 1),
    ("u2", "d", 0),
]


def school(*, time):
    """A log in which items are answered again, with a time for every row that `time` gives."""
    return HEADER + "".join(f"{user},{item},{time(n)},{label}\n" for n, (user, item, label) in enumerate(SCHOOL))


class TestRowsThatRepeat:
    """They are one event written twice where times are fine, and several where they are coarse."""

    def test_under_a_constant_time_they_are_kept_and_told(self, write):
        facts = table.build(write(rows=school(time=lambda n: "2024-05-17")), request("response")).facts
        assert facts["interactions"] == 7
        assert facts["rows_dropped"] == {}
        assert facts["notes"] == [
            "3 of 7 rows equal an earlier one in all four values and were kept, since times are coarse: a user's rows "
            'share one, or few; workload.table.repeated_rows = "drop" drops them'
        ]

    def test_under_a_day_for_many_rows_they_are_kept(self, write):
        items = "item_id,text\n" + "".join(f"q{item},text\n" for item in range(50))
        rows = "".join(f"u{user},q{n % 40},{n // 50},1\n" for user in range(3) for n in range(200))
        facts = table.build(write(items, HEADER + rows), request("response")).facts
        assert facts["interactions"] == 600
        assert "120 of 600 rows" in facts["notes"][0]

    def test_under_fine_times_they_are_dropped_and_told(self, write):
        rows = HEADER + "".join(
            f"{user},{item},{1567140388553 + n},{label}\n" * (1 + (n == 2))
            for n, (user, item, label) in enumerate(SCHOOL)
        )
        facts = table.build(write(rows=rows), request("response")).facts
        assert (facts["interactions"], facts["rows_dropped"]) == (7, {"duplicate row": 1})
        assert "notes" not in facts

    def test_a_setting_decides_where_it_is_given(self, write):
        coarse, fine = school(time=lambda n: 5), school(time=lambda n: n) + "u1,a,0,1\n"
        for rows, choice, left in ((coarse, "drop", 4), (coarse, "keep", 7), (fine, "keep", 8), (fine, "drop", 7)):
            chosen = write(rows=rows).model_copy(update={"repeated_rows": choice})
            assert table.build(chosen, request("response")).facts["interactions"] == left


def test_nanoseconds_order_a_log_that_seconds_in_a_float_would_not(write):
    start = 1_715_934_600_123_456_789
    rows = "".join(f"u,{item},{start + n},1\n" for item, n in (("c", 2), ("a", 0), ("d", 3), ("b", 1)))
    assert responses(table.build(write(rows=HEADER + rows), request("response"))) == [
        ((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0))
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "u,x,1,1\nu,x,2,1\n",
            r'of 2 rows all were dropped: 2 item_id without a text \(for instance line 2, item_id "x"',
        ),
        ("u,a,1,1\nv,b,1,1\n", r'2 user with one interaction \(for instance user_id "u", item_id "a"\)'),
        ("u,e,1,1\n", r'1 item_id with an empty text \(for instance line 2, item_id "e"\)'),
    ],
)
def test_when_nothing_is_left_the_reasons_are_told_with_an_example(write, rows, message):
    with pytest.raises(MalformedData, match=message):
        table.build(write(rows=HEADER + rows), request("response"))


def test_when_too_little_is_left_for_a_batch_the_reasons_are_told(write):
    rows = HEADER + "u,a,1,1\nu,b,2,1\n" + "u,x,3,1\n" * 20
    with pytest.raises(
        ValueError, match=r"batch_size = 9 is more than the . examples of table; table: 20 of 22 rows were"
    ):
        table.build(write(rows=rows), request("response", batch_size=9))


def test_the_command_line_reads_the_files_before_anything_is_timed_and_tells_what_is_wrong(write, capsys):
    def prepare(chosen):
        changes = [f"workload.table.{name}={getattr(chosen, name)}" for name in ("items", "interactions")]
        config = load(None, "full", ["sweep.workload=table", "sweep.encoder=shape:tiny", *changes], "cpu")
        fetch_assets(config, Console())

    prepare(write())
    prepare(write())
    assert capsys.readouterr().out == "reading table's files into the cache\n", "once"
    with pytest.raises(UsageError, match=r'interactions\.csv, line 3: the label "good" is not a number') as raised:
        prepare(write(rows=HEADER + "u,a,1,1\nu,a,1,good\n"))
    assert raised.value.exit_code == 2
