"""The headline claims what the interval of the leading result says, and no more."""

from __future__ import annotations

import math

import pytest

from bench.results.analysis.summary import frames
from bench.results.schema import Record
from reports import headline, numbers
from reports.quality import headline as training_story
from tests.reports import _runs

SPREAD = (-0.10, 0.08, -0.05, 0.10, -0.06, 0.03)


def run(*speed_ups: float, blocks: int = 6, spread: float = 1.0, methods: tuple[str, ...] = ()) -> list[Record]:
    """Methods so many times as fast as e2e in the mean, in blocks that differ."""
    names = methods or ("single_step",)
    records = []
    for block in range(blocks):
        records.append(_runs.record("e2e", block=block, samples_s=(1.0,)))
        for name, speed_up in zip(names, speed_ups, strict=True):
            off = spread * SPREAD[block] if blocks > 1 else 0.0
            exactness = "stale" if name == "multi_step" else "exact"
            own = {"samples_s": (math.exp(off) / speed_up,), "exactness": exactness}
            records.append(_runs.record(name, 16 if name == "multi_step" else None, block=block, **own))
    return records


def told(records: list[Record]) -> headline.Story:
    return headline.tell(frames(records), _runs.info())


@pytest.mark.parametrize("speed_up", [1.03, 0.97])
def test_a_speed_up_whose_interval_holds_1_is_no_speed_up(speed_up):
    """1.03x, 0.94 to 1.13: neither faster nor slower."""
    found = told(run(speed_up))
    (row,) = frames(run(speed_up)).only({"label": "single_step"}).summary.to_dict("records")
    assert row["speed_up_low"] < 1 < row["speed_up_high"]
    spread = numbers.ratio_range(row["speed_up_low"], row["speed_up_high"])
    assert found.headline.startswith("single_step is not distinguishable in speed from end-to-end training")
    assert f"({numbers.speed_up(row)}, 95 % interval {spread})" in found.headline
    assert "as fast as" not in found.headline


@pytest.mark.parametrize(
    ("speed_up", "said"), [(1.03, f"is 1.030{numbers.TIMES} as fast as"), (0.97, "No method was faster")]
)
def test_an_interval_beside_1_is_told_as_what_it_is(speed_up, said):
    assert said in told(run(speed_up, spread=0.05)).headline


def test_one_process_a_line_has_no_known_error():
    found = told(run(1.31, blocks=1))
    assert "in one block, so that the error of its speed-up is not known" in " ".join(found.sentences)


def test_no_more_digits_are_told_than_the_tables_show():
    """Windows that scatter by a third leave one digit known: 15.2 ms at the top stood above 20 in the table."""
    records = [
        _runs.record("e2e", samples_s=(0.0106, 0.0104, 0.0109)),
        _runs.record("single_step", samples_s=(0.0152, 0.0098, 0.0236)),
    ]
    (row,) = frames(records).only({"label": "single_step"}).summary.to_dict("records")
    found = told(records)
    said = " ".join((found.headline, *found.sentences, found.cards[0].big, *dict(found.cards[0].facts).values()))
    assert numbers.milliseconds(row["median_s"], row["scatter"]) == "20"
    assert "takes 20 ms" in said
    assert "15.2" not in said
    assert found.cards[0].big == numbers.speed_up(row)
    assert numbers.times(row["speed_up"]) not in said


def scaled(
    *methods: str, sizes: tuple[int, ...] = (1, 2, 4), gains: tuple[float, ...] = (1.0, 1.8, 3.4)
) -> list[Record]:
    """Runs of so many processes without e2e, which train so many times the users of one per second."""
    records = []
    for method in methods:
        alone = _runs.record(method, 16 if method == "multi_step" else None)
        assert alone.throughput_per_s is not None
        users = alone.throughput_per_s.users
        for size, gain in zip(sizes, gains, strict=True):
            rates = alone.throughput_per_s.model_copy(update={"users": users * gain})
            case = {"case": alone.case | {"world_size": size, "deduplicate": "local"}, "throughput_per_s": rates}
            records.append(alone.model_copy(update=case))
    return records


def test_several_processes_without_e2e_are_told_beside_one():
    """They were "Nothing to compare", though a table below compared them."""
    found = told(scaled("single_step"))
    expected = f"single_step on 4 processes trains 3.40{numbers.TIMES} the users per second of one process on"
    assert found.headline.startswith(expected)
    assert "no e2e on the same case" in " ".join(found.sentences)
    assert found.cards[0].big == f"3.40{numbers.TIMES}"
    assert told(scaled("e2e")).headline.startswith("e2e on 4 processes trains")


def test_a_stale_method_of_several_processes_is_told_as_one_and_leads_no_exact_one():
    both = told(scaled("multi_step", gains=(1.0, 2.0, 4.0)) + scaled("single_step"))
    assert both.headline.startswith("single_step on 4 processes")
    assert [card.label for card in both.cards] == ["single_step", "multi_step N=16"]
    assert "It is stale" in " ".join(told(scaled("multi_step")).sentences)


def test_processes_without_one_alone_have_nothing_to_compare():
    assert told(scaled("single_step", sizes=(2,), gains=(1.0,))).headline.startswith("Nothing to compare")


def test_e2e_on_the_same_case_leads_before_processes():
    assert "as fast as end-to-end training" in told(_runs.several_processes()).headline


def test_a_method_that_is_surely_faster_leads_before_one_that_may_be():
    records = run(1.2, spread=0.05) + [each for each in run(1.25, spread=4.0, methods=("a",)) if each.method == "a"]
    assert told(records).headline.startswith("single_step is 1.20")


def test_that_no_method_is_faster_is_not_said_where_a_stale_one_is():
    found = told(run(0.9, 3.0, spread=0.05, methods=("single_step", "multi_step")))
    assert found.headline.startswith("No exact method was faster")
    assert f"multi_step N=16 reaches 3.000{numbers.TIMES}, but is stale" in " ".join(found.sentences)


def test_a_stale_method_within_the_noise_reaches_nothing():
    found = told(run(4.0, 1.02, methods=("single_step", "multi_step")))
    assert "multi_step N=16 is not distinguishable in speed from e2e, and is stale" in " ".join(found.sentences)


@pytest.mark.parametrize(
    ("low", "high", "stale", "said"),
    [
        (0.7, 0.95, 0.9, "No method reached end-to-end training's quality sooner"),
        (0.7, 0.95, 2.0, "No exact method reached end-to-end training's quality sooner"),
        (0.7, 1.2, 2.0, "but not measurably sooner"),
        (1.1, 1.2, 2.0, "as fast on"),
    ],
)
def test_a_trainings_headline_follows_the_interval_too(low, high, stale, said):
    place = {"workload": "movielens", "encoder": "minilm"}
    exact = {"label": "single_step", "exactness": "exact", "speed_up_quality": math.sqrt(low * high), **place}
    exact |= {"speed_up_quality_low": low, "speed_up_quality_high": high}
    other = {**exact, "label": "multi_step N=16", "exactness": "stale", "speed_up_quality": stale}
    assert said in training_story._headline([exact, other], [exact, other], place)
