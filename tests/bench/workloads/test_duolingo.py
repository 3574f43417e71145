"""`duolingo`: an exercise is its tokens' text, and right where no token of it was wrong."""

import pytest

from bench.workloads import duolingo
from bench.workloads._base import MalformedData
from tests.bench._logs import epoch, request

HEADER = "# user:{}  countries:MX  days:{}  client:web  session:lesson  format:reverse_translate  time:16\n"


def exercise(user, days, words, labels, instance, prompt="# prompt:Yo soy.\n"):
    tokens = "".join(
        f"{instance}{place:02}  {word}  PRON  Case=Nom|Person=1  nsubj  4" + (f"  {label}\n" if label else "\n")
        for place, (word, label) in enumerate(zip(words.split(), labels, strict=True), start=1)
    )
    return prompt + HEADER.format(user, days) + tokens + "\n"


TRAIN = (
    exercise("A+/x", 1.5, "I am", "01", "8rgJEAPw10")
    + exercise("B", 0.2, "I am", "00", "8rgJEAPw11", prompt="")
    + exercise("A+/x", 0.5, "You eat bread", "000", "8rgJEAPw12")
    + exercise("A+/x", 0.5, "You eat bread", "000", "8rgJEAPw12")
    + exercise("C", 0.5, "alone", "0", "8rgJEAPw13")
    + exercise("B", 0.4, "", "", "8rgJEAPw14")
)
DEV = exercise("B", 0.9, "You eat bread", [None] * 3, "DEVdEVde01") + exercise(
    "A+/x", 2, "I am", [None] * 2, "DEVdEVde02"
)
KEY = "DEVdEVde0101 0\nDEVdEVde0102 1\nDEVdEVde0103 0\nDEVdEVde0201 0\nDEVdEVde0202 0\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "cache"))

    def written(train=TRAIN, dev=DEV, key=KEY):
        files = {"es_en.train": train, "es_en.dev": dev, "es_en.dev.key": key}
        for name, text in files.items():
            if text is not None:
                (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        names = ("es_en.train", "es_en.dev") if dev is not None else ("es_en.train",)
        return duolingo.Settings(files=tuple(str(tmp_path / name) for name in names))

    return written


def test_mistakes_of_tokens_become_one_response_per_exercise(write):
    workload = duolingo.build(write(), request("response"))
    texts = {0: "I am", 1: "You eat bread", 2: "alone"}
    found = sorted(
        [(texts[int(item)], float(right)) for item, right in zip(batch.items[0], batch.targets[0], strict=True)][-3:]
        if int(batch.mask.sum()) == 3
        else [(texts[int(item)], float(right)) for item, right in zip(batch.items[0], batch.targets[0], strict=True)][
            -2:
        ]
        for batch in epoch(workload)
    )
    assert found == [
        [("I am", 1.0), ("You eat bread", 0.0)],  # B: the dev file goes on where the train file ends
        [("You eat bread", 1.0), ("I am", 0.0), ("I am", 1.0)],  # A: by days, not by line
    ]
    assert workload.table.lengths.tolist() == [2, 3, 1]
    assert workload.facts["exercises_read"] == 8
    assert workload.facts["exercises_dropped"] == {
        "duplicate exercise": 1,
        "exercise without tokens": 1,
        "user with one interaction": 1,
    }
    assert workload.facts["share_of_right_responses"] == pytest.approx(3 / 5)


TOKEN = "8rgJEAPw1001  She  PRON  Case=Nom  nsubj  4  0\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": TOKEN}, r"es_en\.train, line 1: a token before the first `# user:` line"),
        ({"train": "# countries:MX  days:1\n"}, r"es_en\.train, line 1: expected `# user:NAME \.\.\. days:NUMBER"),
        ({"train": HEADER.format("A", "soon")}, r"es_en\.train, line 1: expected `# user:NAME"),
        (
            {"train": HEADER.format("A", 1) + "8rgJEAPw1001  She  PRON\n"},
            r"line 2: expected a token's id, .* found 3 fie",
        ),
        (
            {"train": HEADER.format("A", 1) + TOKEN.replace("  0\n", "  2\n")},
            r"line 2: the label is '2', neither 0 nor 1",
        ),
        (
            {"train": HEADER.format("A", 1) + TOKEN[:-4] + "\n"},
            r"line 2: the token has no label, and es_en\.train\.key is",
        ),
        ({"key": KEY[:-15]}, r"es_en\.dev, line 10: the token has no label, and es_en\.dev\.key has none for it"),
        ({"key": "DEVdEVde0101\n"}, r"es_en\.dev\.key, line 1: expected a token's id and its label"),
        ({"train": b"# user:\xff\n"}, r"es_en\.train, line 1: not UTF-8"),
        ({"train": "\n"}, r"es_en\.train: there is no exercise"),
        ({"train": exercise("A", 1, "I am", "00", "8rgJEAPw10"), "dev": None}, "no interaction is left to train on"),
    ],
)
def test_malformed_files_are_an_error_naming_file_and_line(write, files, message):
    with pytest.raises(MalformedData, match=message):
        duolingo.build(write(**files), request("response"))


def test_settings_that_lead_nowhere_are_one_clear_sentence(write, tmp_path):
    for settings, asked, message in (
        (duolingo.Settings(), request("response"), r"duolingo needs files of your own: set workload\.duolingo\.files"),
        (duolingo.Settings(files=("no.train",)), request("response"), r"there is no file .*no\.train"),
        (write(), request("ranking"), "duolingo holds right and wrong responses, and the CF module's task is ranking"),
    ):
        with pytest.raises(ValueError, match=message):
            duolingo.build(settings, asked)
