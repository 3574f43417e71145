"""The fast engine's gradients, step for step, against those of the padded encoder in float32, on every device there is.

With a learning rate of zero nothing moves, so that the gradient of each step can be told, captured or not; batches
shrink and grow, which captured buffers must not remember.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from gram_core.batch import Batch, ItemTable
from gram_core.cf_modules.nrms import NRMS
from gram_core.encoders._packed_pass import in_order
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.engines import fast
from gram_core.engines._captured_methods import CapturedExact, CapturedStep
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.e2e import E2E
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training
from tests.gram_core._precision import assert_as_close

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
ITEMS = 16
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _float32_products() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


def training(device: str, text_length: int, amp: torch.dtype | None) -> Training:
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05,
    )  # fmt: skip
    model = BertModel(shape, add_pooling_layer=False).to(device)
    encoder = HuggingFaceEncoder(model, pad_token_id=0, text_length=text_length)
    lengths = torch.randint(1, text_length + 1, (ITEMS,))
    lengths[:2] = torch.tensor([1, text_length])
    table = ItemTable.from_lists([torch.randint(5, 300, (int(length),)).tolist() for length in lengths])
    cf_module = NRMS(32, heads=4).to(device)
    still = dict(lr=0.0, weight_decay=0.0)
    optimizers = [torch.optim.AdamW(part.parameters(), **still) for part in (encoder, cf_module)]
    return Training(table, encoder, cf_module, Optimization(*optimizers), amp)


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    most = [16, 16, 16, 3, 2, 16]  # unique items at most: full, captured, replayed, and smaller
    return [
        Batch(
            torch.randint(0, unique, (4, 7), generator=generator),
            torch.ones(4, 7, dtype=torch.bool),
            torch.randint(0, 2, (4,), generator=generator),
            5,
        )
        for unique in most
    ]


def eager_gradients(run: Training, batch: Batch, method: type = SingleStep) -> dict[str, Tensor]:
    for parameter in (*run.encoder.parameters(), *run.cf_module.parameters()):
        parameter.grad = None
    method(run).accumulate(batch)
    return {name: p.grad.clone() for name, p in run.encoder.named_parameters() if p.grad is not None}


def told_gradients(method: CapturedExact, encoder: PackedEncoder) -> dict[str, Tensor]:
    """Those of the step before: where they stand, or what the first moment of an AdamW with beta1 = 0 holds."""
    names = {id(parameter): name for name, parameter in encoder.encoder.named_parameters()}
    if encoder.standing is not None:
        found = zip(encoder.weights.parameters(), in_order(encoder.standing.moved_by, encoder.weights), strict=True)
        return {names[id(parameter)]: gradient.float() for parameter, gradient in found}
    state = method.training.optimization.encoder_optimizer.state
    return {names[id(parameter)]: held["exp_avg"] for parameter, held in state.items()}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], autocast: dict[str, Tensor] | None) -> None:
    """Gradients found, against those expected, of float32; `autocast`: those of the eager method where bf16 is used."""
    if autocast is not None:
        assert_as_close(found, expected, autocast)
        return
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm())
        assert error <= 1e-5 * max(float(gradient.norm()), 0.3 * largest), name  # below, terms of `largest` cancel


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(
    ("text_length", "method", "amp"),
    [(12, SingleStep, None), (12, E2E, torch.bfloat16), (100, SingleStep, torch.bfloat16), (100, E2E, None),
     (150, SingleStep, None), (150, E2E, torch.bfloat16)],
)  # fmt: skip
def test_gradients_of_every_step(device: str, text_length: int, method: type, amp: torch.dtype | None) -> None:
    reference = training(device, text_length, None)
    run, plain = training(device, text_length, amp), training(device, text_length, amp)
    for group in run.optimization.encoder_optimizer.param_groups:
        group["betas"] = (0.0, 0.999)
    encoder = PackedEncoder(run.encoder, amp)
    built = fast.build_packed(method, run, None, encoder)
    assert isinstance(built, CapturedStep)
    assert (encoder.standing is not None) is (amp is not None)
    for batch in batches():
        built.step(batch)
        autocast = None if amp is None else eager_gradients(plain, batch, method)
        assert_alike(told_gradients(built, encoder), eager_gradients(reference, batch), autocast)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(
    "settings", [None, SingleStep.Settings(chunk_tokens=30, kept_tokens=40)], ids=["whole", "chunks"]
)
def test_a_loaded_state_is_gone_on_from(device: str, settings: SingleStep.Settings | None) -> None:
    """Loading puts other tensors in place of those that captured steps read and write."""

    def stepping(steps: list[Batch]) -> tuple[Training, CapturedExact]:
        run = training(device, 12, torch.bfloat16)
        for optimizer in (run.optimization.encoder_optimizer, run.optimization.cf_optimizer):
            optimizer.param_groups[0]["lr"] = 1e-2
        method = fast.build_packed(SingleStep, run, settings, PackedEncoder(run.encoder, torch.bfloat16))
        assert isinstance(method, CapturedExact)
        for batch in steps:
            method.step(batch)
        return run, method

    def parts(run: Training) -> list[torch.nn.Module | torch.optim.Optimizer]:
        return [run.encoder, run.cf_module, run.optimization.encoder_optimizer, run.optimization.cf_optimizer]

    some, last = batches()[:4], batches()[0]
    first, method = stepping(some)
    states = copy.deepcopy([part.state_dict() for part in parts(first)])
    for batch in (last, last):
        method.step(batch)
    second, resumed = stepping([last] * 4)
    for part, state in zip(parts(second), states, strict=True):
        part.load_state_dict(state)
    for batch in (last, last):
        resumed.step(batch)
    found, expected = (parameters({"encoder": run.encoder, "cf": run.cf_module}) for run in (second, first))
    assert max(relative_errors(found, expected).values()) <= 1e-4
