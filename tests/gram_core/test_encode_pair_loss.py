"""`DeduplicatedLoss` around sentence-transformers' losses: the same value and gradient, each text encoded once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from gram_core import DeduplicatedLoss
from gram_core.exactness import gradients, relative_errors
from tests.gram_core import _own_loop as loop

library = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

WORDS = [f"w{i}" for i in range(30)]
ANCHORS = ["w1 w2 w3", "w1 w2 w3", "w4", "w1 w2 w3"]
POSITIVES = ["w5 w6", "w7 w8 w9 w10 w11", "w4", "w12 w13"]
NEGATIVES = ["w5 w6", "w5 w6", "w14 w15 w16 w17", "w4"]
DISTINCT = len({*ANCHORS, *POSITIVES, *NEGATIVES})


def sentence_model(folder: Path, padding_side: str = "right"):
    """A tiny BERT with a tokenizer of 30 words, float64."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side=padding_side
    )
    fast.save_pretrained(folder)
    loop.text_model().save_pretrained(folder)
    modules = library.sentence_transformer.modules
    transformer = modules.Transformer(str(folder))
    return library.SentenceTransformer(modules=[transformer, modules.Pooling(loop.WIDTH)], device="cpu").double()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sentence_model(tmp_path_factory.mktemp("model"))


def features(model, *columns):
    return [dict(model.preprocess(column)) for column in columns]


def run(loss, model, columns, labels=None):
    model.zero_grad()
    value = loss(features(model, *columns), labels)
    value = sum(value.values()) if isinstance(value, dict) else value
    value.backward()
    return value.detach(), gradients({"model": model})


CLASSES = [name for name in losses.__all__ if hasattr(getattr(losses, name), "compute_loss_from_embeddings")]
LABELS = {"CoSENTLoss": "scores", "AnglELoss": "scores", "CosineSimilarityLoss": "scores", "MarginMSELoss": "scores"}
PAIRS = {*LABELS, "ContrastiveLoss", "OnlineContrastiveLoss"} - {"MarginMSELoss"}
OTHERS = {"EmbedDistillLoss", "DistillKLDivLoss", "MSELoss", "OnlineContrastiveLoss"}
"""They want a teacher's embeddings, or choose pairs of which these texts have none."""


@pytest.mark.filterwarnings("ignore:The MultipleNegativesSymmetric:DeprecationWarning")
@pytest.mark.parametrize(("chunk", "keep"), [(None, None), (2, 0)])
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in OTHERS and "Batch" not in name])
def test_every_loss_on_embeddings_keeps_its_value_and_gradient(model, name, chunk, keep):
    columns = [ANCHORS, POSITIVES] if name in PAIRS else [ANCHORS, POSITIVES, NEGATIVES]
    labels = torch.tensor([1.0, 0.0, 0.5, 0.0] if name in LABELS else [1, 0, 1, 0], dtype=torch.float64)
    try:
        expected_value, expected = run(getattr(losses, name)(model), model, columns, labels)
    except RuntimeError as error:
        pytest.skip(f"the library's own loss fails in float64 with this torch: {error}")
    if not all(gradient.isfinite().all() for gradient in expected.values()):
        pytest.skip("the library's own gradient is not finite with this torch")
    value, found = run(DeduplicatedLoss(getattr(losses, name)(model), chunk=chunk, keep=keep), model, columns, labels)
    torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=1e-10)
    assert max(relative_errors(found, expected).values()) < 1e-10
    assert any(gradient.abs().sum() > 0 for gradient in found.values())


def test_it_leaves_the_gradient_of_the_cached_loss(model):
    columns = [ANCHORS, POSITIVES, NEGATIVES]
    _, found = run(DeduplicatedLoss(losses.MultipleNegativesRankingLoss(model), chunk=2, keep=0), model, columns)
    _, expected = run(losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2), model, columns)
    assert max(relative_errors(found, expected).values()) < 1e-10


def test_each_text_is_encoded_once_without_needless_padding(model):
    seen = []
    handle = model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]["attention_mask"]))
    with torch.no_grad():
        DeduplicatedLoss(losses.MultipleNegativesRankingLoss(model), chunk=1)(
            features(model, ANCHORS, POSITIVES, NEGATIVES)
        )
    handle.remove()
    assert len(seen) == DISTINCT
    assert all(bool(mask.all()) for mask in seen)


def test_left_padding(tmp_path):
    """Positions count from the padding's end, as relative ones do: values stay those of one padded column."""
    model = sentence_model(tmp_path, "left")
    columns = [["w1 w2 w3", "w4"], ["w1 w2 w3", "w5 w6"]]
    _, found = run(DeduplicatedLoss(losses.MultipleNegativesRankingLoss(model)), model, columns)
    _, expected = run(losses.MultipleNegativesRankingLoss(model), model, columns)
    assert max(relative_errors(found, expected).values()) < 1e-10


def test_the_trainer_takes_it(model, tmp_path):
    """Three steps of the library's trainer end at the same weights with the loss and with ours around it."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES, "negative": NEGATIVES})

    def train(wrap):
        trained = copy.deepcopy(model)
        loss = wrap(losses.MultipleNegativesRankingLoss(trained))
        arguments = library.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        library.SentenceTransformerTrainer(trained, arguments, train_dataset=rows, loss=loss).train()
        return {name: p.detach() for name, p in trained.named_parameters()}

    found, expected = train(lambda loss: DeduplicatedLoss(loss, chunk=2, keep=0)), train(lambda loss: loss)
    assert max(relative_errors(found, expected).values()) < 1e-8
    assert max(relative_errors(found, dict(model.named_parameters())).values()) > 1e-6


def test_the_wrapped_model_reaches_the_inner_loss(model):
    """The trainer replaces a loss's model by its wrapped one; here too, or processes would not sum gradients."""
    loss = DeduplicatedLoss(losses.MultipleNegativesRankingLoss(model))
    assert loss.model is model
    wrapped = torch.nn.Sequential(model)
    library.SentenceTransformerTrainer.override_model_in_loss(None, loss.loss, wrapped)
    assert loss.model is wrapped


def test_what_it_cannot_wrap_is_named(model):
    for other in (losses.CachedMultipleNegativesRankingLoss(model), torch.nn.Identity()):
        with pytest.raises(TypeError, match=f"{type(other).__name__} does not compute its value from embeddings"):
            DeduplicatedLoss(other)
    loss = DeduplicatedLoss(losses.MultipleNegativesRankingLoss(model))
    pictures = [{"pixel_values": torch.zeros(2, 3, 4, 4)}] * 2
    with pytest.raises(ValueError, match="padded texts alone"):
        loss(pictures)
