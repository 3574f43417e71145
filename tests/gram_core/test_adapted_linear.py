"""A linear with LoRA beside it as one operator: what peft computes, in float64, forwards and backwards."""

import threading

import pytest
import torch
from torch import nn

from gram_core.encoders._lora_calls import calling_once, plain
from gram_core.kernels.adapted_linear import adapted_linear, wider_pays

peft = pytest.importorskip("peft")


def adapted(**options: object) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 12, bias=False)).double()
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["0", "1"], "init_lora_weights": False} | options
    return peft.get_peft_model(model, peft.LoraConfig(**settings)).double().train()


def found(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    out = model(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *learning])]


@pytest.mark.parametrize("tokens", [7, 400])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"r": 1}, {"r": 4}], ids=str)
def test_it_is_what_peft_computes(options, tokens):
    """By one product of wider rows where there are many tokens: of x in the first, of the gradient in the second."""
    model = adapted(**options)
    assert wider_pays(2 * tokens, 12, 20, options.get("r", 3)) == (tokens == 400 and options.get("r") == 4)
    x = torch.randn(2, tokens, 12, dtype=torch.float64, requires_grad=True)
    expected = found(model, x)
    called = plain(model)
    assert len(called) == 2
    with calling_once(called):
        mine = found(model, x)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found(model, x), expected, rtol=0, atol=0)  # left as it was


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}, {"bias": "all"}], ids=str
)
def test_what_is_more_than_plain_lora_is_called_as_ever(options):
    assert len(plain(adapted(**options))) == (1 if options == {"bias": "all"} else 0)


def test_hooks_second_adapters_and_merged_ones_are_called_as_ever():
    hooked = adapted()
    hooked.base_model.model[0].base_layer.register_forward_hook(lambda *_: None)
    assert len(plain(hooked)) == 1
    second = adapted()
    second.add_adapter("other", peft.LoraConfig(r=2, target_modules=["0"]))
    second.base_model.set_adapter(["default", "other"])
    assert [name for _, name in plain(second)] == ["default"]
    merged = adapted()
    merged.merge_adapter()
    assert plain(merged) == []
    off = adapted()
    with off.disable_adapter():
        assert plain(off) == []


def test_only_the_adapter_needs_a_gradient():
    x, weight = torch.randn(5, 4), torch.randn(6, 4)
    down, up = (torch.randn(shape, requires_grad=True) for shape in ((2, 4), (6, 2)))
    adapted_linear(x, weight, None, down, up).sum().backward()
    assert down.grad is not None
    assert up.grad is not None
    with pytest.raises(ValueError, match="learns as well"):
        adapted_linear(x, weight.requires_grad_(), None, down, up)


def test_the_operator_keeps_torchs_contract():
    down, up = (torch.randn(shape, requires_grad=True) for shape in ((2, 4), (6, 2)))
    for bias in (None, torch.randn(6)):
        inputs = (torch.randn(5, 4, requires_grad=True), torch.randn(6, 4), bias, down, up)
        torch.library.opcheck(torch.ops.gram_core.adapted_linear.default, inputs)


def test_a_class_is_told_by_many_at_once_and_restored_by_the_last() -> None:
    models, own = [adapted(), adapted()], peft.tuners.lora.layer.Linear.forward
    entered, first_left = threading.Event(), threading.Event()
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    expected = found(models[0], x)

    def other() -> None:
        with calling_once(plain(models[1])):
            entered.set()
            assert first_left.wait(10)

    thread = threading.Thread(target=other)
    with calling_once(plain(models[0])):
        with calling_once(plain(models[0])):
            pass
        torch.testing.assert_close(found(models[0], x), expected)
        thread.start()
        assert entered.wait(10)
    assert peft.tuners.lora.layer.Linear.forward is not own, "the other one is still within"
    first_left.set()
    thread.join()
    assert peft.tuners.lora.layer.Linear.forward is own


@pytest.mark.parametrize("shape", [(12,), (0, 12), (1, 0, 12)])
def test_rows_of_any_shape_keep_the_dtype_that_autocast_leaves_them(shape: tuple[int, ...]) -> None:
    model, x = adapted(), torch.randn(shape, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        with calling_once(plain(model)):
            torch.testing.assert_close(model(x), expected)
