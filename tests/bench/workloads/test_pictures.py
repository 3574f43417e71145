"""Encoders of pictures through the harness: shapes, the workload, counts, and what happens where kinds are mixed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.build.assembly import build, build_workload
from bench.cli import app
from bench.configuration import sweep
from bench.configuration.config import SweepAxes
from bench.encoders import _base as encoders
from bench.encoders import shape as shapes
from bench.encoders._base import Loading, PictureFormat
from bench.encoders._encoding import encoding_of
from bench.encoders.shape import SHAPES
from bench.inputs.item_kinds import refuse_other_items
from bench.measure.flops import operations_of, step_flops
from bench.processes.messages import Job
from bench.results.schema import Record
from bench.verify.report import verify
from bench.worker.measurement import measure
from bench.workloads import pictures, synthetic
from bench.workloads._base import Axes, WorkloadRequest
from gram_core.batch import unique_items
from tests.bench._bert_texts import same
from tests.bench._small_runs import config, item
from tests.bench.verify.test_verify import checks_of
from tests.bench.verify.test_verify import config as to_verify

CPU = torch.device("cpu")
SHOWN = tuple(name for name, shape in SHAPES.items() if shape.picture is not None)
TINY = PictureFormat(32, 8, True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def narrow(monkeypatch):
    """Shapes at width 32 that read pictures of four patches."""
    for name in SHOWN:
        shape = SHAPES[name]
        small = replace(shape.picture, size=16, patch=8)
        options = {**shape.options, "image_size": 16, "patch_size": 8}
        fields = dict(width=32, heads=2, inner=64, options=options, picture=small, longest_text=small.tokens)
        monkeypatch.setitem(SHAPES, name, replace(shape, **fields))


def load(shape, device=CPU, dtype=torch.float32, layers=1, seed=0):
    return encoders.load(f"shape:{shape}", Loading(device, dtype, layers, seed, dropout="off"))


def encoder_of(loaded):
    return encoding_of(loaded, "auto", "shape").encoder(loaded.longest_text)


def picture_case(method="e2e", **axes):
    return item(method, **{"workload": "pictures", "encoder": "shape:vit-tiny", "text_length": TINY.tokens, **axes})


def request(**changes):
    case = dict(batch_size=8, history_length=10, text_length=17, item_repetition_ratio=2.0, seed=0, picture=TINY)
    texts = dict(vocab_size=0, pad_token_id=0, closing_token_id=None)
    return WorkloadRequest(**{**case, **texts, **changes})


@pytest.mark.parametrize(
    ("shape", "parameters", "tokens"),
    [("vit-tiny", 23_904, 17), ("vit-base", 85_798_656, 197), ("siglip-base", 92_884_224, 196)],
)
def test_shapes_have_the_published_number_of_parameters_less_a_pooler_that_is_not_used(shape, parameters, tokens):
    loaded = load(shape, torch.device("meta"), layers=None)
    assert sum(parameter.numel() for parameter in encoder_of(loaded).parameters()) == parameters
    assert loaded.picture.tokens == loaded.longest_text == encoders.limits(f"shape:{shape}").longest_text == tokens


def test_every_shape_of_pictures_is_tested():
    assert set(SHOWN) == {"vit-tiny", "vit-base", "siglip-base"}


@pytest.mark.parametrize("shape", SHOWN)
def test_a_shape_trains_every_parameter_and_drops_nothing(shape, narrow):
    encoder = encoder_of(load(shape)).train()
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    found = encoder(pixels)
    assert torch.equal(found, encoder(pixels))
    found.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("shape", SHOWN)
def test_a_shape_computes_the_tokens_that_it_tells(shape, narrow):
    """What budgets, counts and the case's text length are made of."""
    loaded = load(shape)
    states = loaded.model(pixel_values=torch.zeros(1, 3, 16, 16)).last_hidden_state
    assert states.shape[1] == loaded.picture.tokens


def test_encodings_keep_the_dtype_of_the_weights_under_autocast(narrow):
    for shape in SHOWN:
        encoder = encoder_of(load(shape))
        with torch.autocast("cpu", torch.bfloat16):
            assert encoder(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).dtype == torch.float32


@pytest.mark.parametrize("task", ["ranking", "response"])
def test_batches_are_those_of_synthetic(task):
    drawn = pictures.build(pictures.Settings(items=300), request(task=task))
    texts = replace(request(task=task), vocab_size=100, special_token_ids=frozenset({0}), picture=None)
    expected = synthetic.build(synthetic.Settings(items=300), texts)
    assert all(same(drawn.batches(step), expected.batches(step)) for step in range(3))
    assert drawn.facts["item_repetition_ratio"] == expected.facts["item_repetition_ratio"]
    assert drawn.log == "synthetic"


def test_noise_is_of_each_item_alone_and_takes_little_memory():
    """20,000 pictures of ViT-B/16 are 3 GB; what they are windows of is 10 MB."""
    large = PictureFormat(224, 16, True)
    pixels = pictures.noise(20_000, large, np.random.default_rng(0))
    assert pixels.shape == (20_000, 3, 224, 224)
    assert np.lib.array_utils.byte_bounds(pixels)[1] - np.lib.array_utils.byte_bounds(pixels)[0] < 11e6
    few = pictures.noise(40, TINY, np.random.default_rng(0))
    again = pictures.noise(40, TINY, np.random.default_rng(0))
    assert np.array_equal(few, again)
    patches = few.reshape(40, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(40 * 16, -1)
    assert len(np.unique(patches, axis=0)) == 40 * 16, "two pictures share a patch"
    assert 120 < few.mean() < 135


def test_pictures_come_from_the_seed():
    def taken(**changes):
        return pictures.build(pictures.Settings(items=60), request(**changes)).table.take(torch.tensor([7, 0, 7]))

    assert taken().dtype == torch.uint8
    assert torch.equal(taken(), taken())
    assert torch.equal(taken()[0], taken()[2])
    assert not torch.equal(taken()[0], taken()[1])
    assert not torch.equal(taken(), taken(seed=1))


def test_digits_are_real_and_enlarged(asset):
    folder = asset("digits")
    grey = pictures.digits(folder)
    assert grey.shape == (5000, 28, 28)
    assert grey.max() == 255
    assert 0.1 < (grey > 0).mean() < 0.3, "ink on an empty ground"
    workload = pictures.build(pictures.Settings(source="digits"), request(picture=PictureFormat(56, 8, True)))
    assert len(workload.table) == 5000
    found = workload.table.take(torch.tensor([4, 2011]))
    assert found.shape == (2, 1, 56, 56)
    assert np.array_equal(found[1, 0, ::2, 1::2].numpy(), grey[2011])
    assert set(pictures.contents(pictures.Settings(source="digits"), None)) == {"settings", "mnist_5k.csv.gz"}


def test_what_cannot_be_drawn_is_refused_with_its_bound():
    axes = Axes(batch_size=8, history_length=10, text_length=17, item_repetition_ratio=2.0)
    with pytest.raises(ValueError, match="there are 5,000 digits"):
        pictures.check(pictures.Settings(source="digits", items=5001), axes)
    with pytest.raises(ValueError, match=r"more than workload\.pictures\.items = 40"):
        pictures.check(pictures.Settings(items=40), axes)
    with pytest.raises(ValueError, match='pictures takes no argument, write "pictures"'):
        pictures.check(pictures.Settings(), replace(axes, argument="cats"))


@pytest.mark.parametrize("method", ["e2e", "e2e_unique", "single_step", "multi_step"])
def test_methods_are_measured_on_pictures(method):
    steps = 2 if method == "multi_step" else None
    found = Record.model_validate(
        measure(Job(config(), picture_case(method, accumulation_steps=steps)), lambda _: None)
    )
    assert found.outcome == "ok"
    assert found.item_slots == 24
    assert found.item_repetition_ratio == 2.0
    assert found.real_tokens == 24 * TINY.tokens
    once = method in ("e2e_unique", "single_step")
    if method != "multi_step":
        assert found.encoded_tokens == found.padded_tokens == (12 if once else 24) * TINY.tokens
    assert found.detail.weights == "random"
    assert found.detail.encoding.pooling == "cls"


def by_hand(shape, picture, items):
    """Multiplications and additions of a forward pass over so many pictures."""
    tokens, d, inner = picture.tokens, shape.width, shape.inner
    layer = tokens * (4 * d * d + 2 * d * inner) + 2 * d * tokens * tokens
    patches = (picture.size // picture.patch) ** 2
    embedding = patches * d * picture.channels * picture.patch**2
    head = 0
    if shape.pooling == "head":  # one query, keys and values of all states, a projection, two linears
        head = 2 * d * d + 2 * tokens * d * d + 2 * tokens * d + 2 * d * inner
    return 2 * items * (layer + embedding + head)


@pytest.mark.parametrize("shape", SHOWN)
def test_operations_are_those_by_hand(shape, narrow):
    """Of the backward pass twice as many, but for the pixels, which get no gradient."""
    encoder, sizes = encoder_of(load(shape)), SHAPES[shape]
    lengths = torch.full((5,), sizes.picture.tokens)
    forward = operations_of(encoder).of(lengths)
    assert forward == by_hand(sizes, sizes.picture, 5)
    embedding = 2 * 5 * 4 * 32 * 3 * 64
    assert operations_of(encoder, backward=True).of(lengths) == pytest.approx(3 * forward - embedding, rel=0.02)
    assert operations_of(encoder).of(lengths[:0]) == 0


def test_a_steps_operations_are_those_of_the_pictures_encoded():
    built = build(config(), picture_case("single_step"), CPU)
    batch = built.workload.batches(0)
    passes = built.method.encoded_items([batch])
    assert len(passes[0]) == len(unique_items(batch).items) == 12
    whole = step_flops(built.training, built.training.encoder, [batch], passes, [False])
    half = step_flops(built.training, built.training.encoder, [batch], [passes[0][:6]], [False])
    each = operations_of(built.training.encoder, backward=True).of(torch.full((6,), 17))
    assert whole - half == pytest.approx(each)


@pytest.mark.parametrize("shape", SHOWN)
def test_verify_covers_pictures(shape, narrow):
    settings = to_verify(
        ["e2e", "single_step", "multi_step"],
        workload=["pictures"],
        encoder=[f"shape:{shape}"],
        layers=[1],
        engine=["eager", "fast"],
    )
    report = verify(settings, CPU)
    assert report.passed
    assert "another picture changes them" in checks_of(report, "e2e")
    assert {"gradients", "gradients, clipped", "gradients, recomputed"} < set(checks_of(report, "single_step (fast)"))
    assert f"shape:{shape}" in "".join(report.ran), "by which tier, and why by no faster one"


def test_processes_that_train_together_share_pictures():
    """Each rank encodes its own items, or all of them together each item once; one that has none encodes none."""
    axes = dict(workload=["pictures"], encoder=["shape:vit-tiny"], layers=[1], world_size=[2], deduplicate=["global"])
    report = verify(to_verify(["e2e", "single_step"], **axes), CPU)
    assert report.passed
    assert {"gradients, local", "gradients, global"} <= set(checks_of(report, "single_step"))


def test_verify_sees_gradients_that_do_not_depend_on_a_picture(monkeypatch):
    """A table that hands over the same picture for every item: its gradients are alive, and say nothing."""
    monkeypatch.setattr(pictures, "noise", lambda items, picture, rng: np.ones((items, 3, 32, 32), np.uint8))
    report = verify(to_verify(workload=["pictures"], encoder=["shape:vit-tiny"]), CPU)
    assert not checks_of(report, "e2e")["another picture changes them"].passed


def test_a_case_has_the_text_length_that_its_encoder_makes_of_a_picture():
    """Lengths of texts are asked for in vain: one case comes of them, known by the tokens of a picture."""
    axes = dict(workload=("pictures",), encoder=("shape:vit-tiny", "shape:siglip-base"), text_length=(32, 128))
    axes |= dict(batch_size=(8,), history_length=(10,), item_repetition_ratio=(2.0,))
    cases = sweep.cases(SweepAxes(**axes))
    assert [(case.encoder, case.text_length) for case in cases] == [("shape:vit-tiny", 17), ("shape:siglip-base", 196)]


COMMANDS = ["run", "run --dry-run", "verify", "profile", "plan", "calibrate"]


@pytest.mark.parametrize("command", [*COMMANDS, "train"])
@pytest.mark.parametrize(
    ("workload", "encoder", "words"),
    [
        ("synthetic", "shape:vit-base", "shape:vit-base reads pictures, and the workload synthetic holds texts"),
        ("pictures", "minilm", "the workload pictures holds pictures, and minilm is loaded as an encoder of texts"),
        ("pictures", "hub:a/b", "take one of shape:vit-tiny, shape:vit-base, shape:siglip-base"),
    ],
)
def test_mixed_kinds_are_one_sentence_from_every_command(command, workload, encoder, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ["--set", f"sweep.workload=['{workload}']", "--set", f"sweep.encoder=['{encoder}']"]
    result = CliRunner().invoke(app, [*command.split(), "--preset", "smoke", "--device", "cpu", *changes])
    assert result.exit_code == 2
    assert result.stderr.startswith("gram-bench: --set sweep.encoder: ")
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_train_sweep_is_looked_at_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--preset", "smoke", "--device", "cpu", "--set", "train.sweep.encoder=['shape:vit-base']"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "train.sweep.encoder: shape:vit-base reads pictures" in result.stderr


@pytest.mark.parametrize("command", ["plan", "calibrate"])
def test_forecasts_know_texts_only_and_say_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ["--set", "sweep.workload=['pictures']", "--set", "sweep.encoder=['shape:vit-tiny']"]
    result = CliRunner().invoke(app, [command, "--preset", "smoke", "--device", "cpu", *changes])
    assert result.exit_code == 2
    assert "plan and calibrate know encoders of texts, and shape:vit-tiny reads pictures" in result.stderr


def test_mixed_kinds_are_refused_without_a_command_too():
    with pytest.raises(ValueError, match="reads pictures, and the workload synthetic holds texts"):
        build_workload(config(), picture_case(workload="synthetic").case, load("vit-tiny"), "ranking")
    refuse_other_items("pictures", "shape:vit-tiny")
    refuse_other_items("movielens", "path:/nowhere")


def test_the_content_of_text_shapes_has_not_changed_by_that_of_pictures():
    """Runs know encoders by it: those of before would else be of another encoder."""
    assert "picture" not in str(shapes.contents("tiny"))
    assert str(SHAPES["vit-base"].picture) in str(shapes.contents("vit-base"))


def test_kinds_are_told_without_torch():
    code = (
        "import sys\nfrom bench.inputs.item_kinds import refuse_other_items\n"
        "refuse_other_items('pictures', 'shape:vit-base')\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
