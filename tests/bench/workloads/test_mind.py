"""`mind`: impressions as Microsoft ships them; training samples what was shown in vain, dev is ranked as it was."""

import pytest
import torch

from bench.workloads import mind
from bench.workloads._base import MalformedData
from tests.bench._logs import epoch, request, scored

TITLES = {"N1": "one", "N2": "two", "N3": "three", "N4": "four", "N5": "five", "N6": "six", "N7": ""}
NUMBER = {name: place for place, name in enumerate(name for name, title in TITLES.items() if title)}
TRAIN = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0 N5-0 N1-0\n"
    "2\tU2\t11/11/2019 9:06:58 AM\t\tN2-0 N4-1\n"
    "3\tU3\t11/11/2019 9:07:58 AM\tN1 N9 N7\tN5-1 N2-1 N3-0 N9-0\n"
    "3\tU3\t11/11/2019 9:07:58 AM\tN1 N9 N7\tN5-1 N2-1 N3-0 N9-0\n"
    "4\tU4\t11/11/2019 9:07:58 AM\tN1\tN5-0 N2-0\n"
    "5\tU4\t11/11/2019 9:07:58 AM\tN1\tN5-1\n"
)
DEV = "1\tU1\t11/15/2019 9:05:58 AM\tN1 N2 N3\tN6-1 N4-0\n2\tU2\t11/15/2019 9:06:58 AM\tN4\tN1-0 N2-1 N3-0 N5-1 N6-0\n"


def news(names):
    return "".join(f"{name}\tnews\tlocal\t{TITLES[name]}\tabout {name}\thttps://x\t[]\t[]\n" for name in names)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))

    def written(train=TRAIN, dev=DEV, train_news=None, **options):
        for split, behaviors, listed in (("train", train, "N1 N2 N3 N4 N5 N7"), ("dev", dev, "N1 N2 N6")):
            folder = tmp_path / split
            folder.mkdir(exist_ok=True)
            text = train_news if split == "train" and train_news is not None else news(listed.split())
            (folder / "news.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
            (folder / "behaviors.tsv").write_text(behaviors)
        return mind.Settings(train=str(tmp_path / "train"), dev=str(tmp_path / "dev"), **options)

    return written


def rows(batch):
    """History, clicked item, and the other candidates of every row, by the numbers of NUMBER."""
    found = []
    for items, mask, clicked in zip(batch.items, batch.mask, batch.targets, strict=True):
        length = batch.history_length
        shown = [int(item) for item, there in zip(items[length:], mask[length:], strict=True) if there]
        target = int(items[length + clicked])
        assert mask[length + clicked]
        shown.remove(target)
        found.append((tuple(items[:length][mask[:length]].tolist()), target, tuple(shown)))
    return found


def n(*names):
    return tuple(NUMBER[f"N{name}"] for name in names)


def test_each_click_is_trained_on_among_what_was_shown_in_vain(write):
    workload = mind.build(write(), request("ranking", candidates=5))
    found = {
        (history, target, tuple(sorted(rest))) for batch in epoch(workload) for history, target, rest in rows(batch)
    }
    assert found == {(n(1, 2), *n(3), n(1, 4, 5)), ((), *n(4), n(2)), (n(1), *n(5), n(3)), (n(1), *n(2), n(3))}
    assert all(batch.items.shape == (1, 11) for batch in epoch(workload))
    assert workload.validation is None
    facts = workload.facts
    assert facts["train_impressions_read"] == 6
    assert facts["news_dropped"] == {"news with an empty text": 1}
    assert facts["train_impressions_dropped"] == {
        "duplicate line": 1,
        "impression without a click": 1,
        "impression where all was clicked": 1,
    }
    assert facts["train_ids_dropped"] == {"id that is in no news.tsv": 2, "id of news with an empty text": 1}
    assert (facts["train_clicks_read"], facts["train_clicks_dropped"]) == (5, {"impression where all was clicked": 1})


UNUSABLE = {
    "impression without a click": "N1-0 N2-0",
    "impression where all was clicked": "N1-1 N2-1",
    "impression whose clicked news have no text": "N7-1 N2-0",
    "impression whose news that were not clicked have no text": "N1-1 N7-0",
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_why_an_impression_was_left_out_is_told_as_it_is(write, reason):
    """One whose clicked news have no text had a click, and says nothing of readers who click nothing."""
    behaviors = f"{TRAIN}7\tU7\t11/11/2019 9:05:58 AM\tN1\t{UNUSABLE[reason]}\n"
    usual = mind.build(write(), request("ranking")).facts
    facts = mind.build(write(train=behaviors), request("ranking")).facts
    told = facts["train_impressions_dropped"]
    assert {name: told[name] - usual["train_impressions_dropped"].get(name, 0) for name in told if name == reason} == {
        reason: 1
    }
    assert sum(told.values()) == sum(usual["train_impressions_dropped"].values()) + 1
    more = UNUSABLE[reason].count("-1")
    assert facts["train_clicks_read"] == usual["train_clicks_read"] + more
    assert sum(facts["train_clicks_dropped"].values()) == sum(usual["train_clicks_dropped"].values()) + more


def test_when_nothing_is_left_the_reasons_are_told_with_an_example(write):
    behaviors = "".join(f"{n}\tU{n}\t11/11/2019 9:05:58 AM\t\tN7-1 N2-0\n" for n in range(3))
    with pytest.raises(MalformedData, match=r"of 3 train impressions all were dropped: 3 impression whose clicked news "
                       r"have no text \(for instance .*behaviors\.tsv, line 1\)"):  # fmt: skip
        mind.build(write(train=behaviors), request("ranking"))


def test_negatives_are_drawn_anew_and_without_repeats(write):
    workload = mind.build(write(), request("ranking", candidates=3))
    drawn = {
        rest for step in range(200) for history, target, rest in rows(workload.batches(step)) if target == NUMBER["N3"]
    }
    assert {tuple(sorted(pair)) for pair in drawn} == {n(1, 4), n(1, 5), n(4, 5)}
    clicked = {int(workload.batches(step).targets) for step in range(60)}
    assert clicked == {0, 1, 2}


def test_dev_is_ranked_per_impression_with_all_that_it_showed(write):
    """A click of an impression with two stands without the other: that one is not wrong."""
    workload = mind.build(write(), request("ranking", hold_out=(0.5, 0.0, 0)))
    (only,) = scored(workload.validation)
    assert workload.test is None
    expected = [(n(1, 2, 3), *n(6), n(4)), (n(4), *n(2), n(1, 3, 6)), (n(4), *n(5), n(1, 3, 6))]
    assert sorted(rows(only.batch)) == sorted(expected)
    assert not only.cold.any()


def test_impressions_are_either_validation_or_test(write):
    many = "".join(f"{k}\tU{k}\t11/15/2019 9:05:58 AM\tN{k % 5 + 1}\tN6-1 N4-0\n" for k in range(200))
    workload = mind.build(write(dev=many), request("ranking", hold_out=(0.1, 0.3, 0)))
    counts = [sum(each.batch.users for each in scored(split)) for split in (workload.validation, workload.test)]
    assert sum(counts) == 200
    assert 30 < counts[0] < 70, "a quarter, as 0.1 is of 0.1 + 0.3"


def test_cold_news_are_in_no_training_batch_and_stand_among_their_like(write):
    workload = mind.build(write(), request("ranking", candidates=5, hold_out=(0.5, 0.0, 1)))
    cold = set(workload.cold_items.tolist())
    assert NUMBER["N6"] in cold, "the train split never mentions it"
    met = set(torch.cat([batch.items[batch.mask] for batch in epoch(workload)]).tolist())
    assert not met & cold
    for each in scored(workload.validation):
        for (_, target, rest), is_cold in zip(rows(each.batch), each.cold.tolist(), strict=True):
            assert (target in cold) == is_cold
            assert {item in cold for item in rest} <= {is_cold}


def test_texts_are_title_abstract_or_body(write, tmp_path):
    (tmp_path / "bodies.tsv").write_text("N1\tbody of the first\nN7\tonly a body\n")

    def lengths(**options):
        return mind.build(write(**options), request("ranking")).table.lengths.tolist()

    assert lengths() == [1] * 6
    assert lengths(texts="abstract") == [3] * 5 + [2] + [3]
    body = lengths(texts="body", bodies=str(tmp_path / "bodies.tsv"))
    assert body == [7, 3, 3, 3, 3, 5, 3]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": "1\tU1\ttime\tN1\n"}, r"behaviors\.tsv, line 1: expected 5 fields .* found 4"),
        ({"train": TRAIN + "9\tU1\ttime\tN1\tN2 N3\n"}, r'behaviors\.tsv, line 7: "N2" is no news id with -1'),
        ({"train": "4\tU4\ttime\tN1\tN5-0 N2-0\n"}, r"behaviors\.tsv: no interaction is left"),
        ({"train_news": news(["N1"]) + "N2\tnews\n"}, r"news\.tsv, line 2: expected 8 fields .* found 2"),
        ({"train_news": news(["N1"]).encode("utf-16")}, r"news\.tsv, line 1: not UTF-8"),
    ],
)
def test_malformed_files_are_an_error_naming_file_and_line(write, files, message):
    with pytest.raises(MalformedData, match=message):
        mind.build(write(**files), request("ranking"))


def test_settings_that_lead_nowhere_are_one_clear_sentence(write, tmp_path):
    chosen = write()
    for settings, asked, message in (
        (mind.Settings(), request("ranking"), r"mind needs files of your own: set workload\.mind\.train"),
        (mind.Settings(train=str(tmp_path)), request("ranking"), r"there is no file .*news\.tsv"),
        (chosen, request("response"), "mind holds clicks, and the CF module's task is response"),
        (chosen.model_copy(update={"texts": "body"}), request("ranking"), r"set workload\.mind\.bodies"),
        (
            chosen.model_copy(update={"dev": None}),
            request("ranking", hold_out=(0.1, 0.1, 0)),
            r"set workload\.mind\.dev",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            mind.build(settings, asked)
