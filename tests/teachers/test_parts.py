"""Linear layers, attention and frozen parts against the same formulas in float64, on the ways that a CPU takes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.families import _onednn
from teachers.families._beats import _PositionConv
from teachers.families._parts import Linear, attend, cast_linears, frozen
from tests.teachers.conftest import SMALL, random_beats
from tests.teachers.tiny_families import FULL, tiny_teacher

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_linear(inputs: int, outputs: int, *, bias: bool = True) -> Linear:
    layer = Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=1))
        if bias:
            layer.bias.copy_(normal(outputs, seed=2))
    return layer


def linear_in_float64(layer: Linear, inputs: Tensor) -> Tensor:
    return F.linear(inputs.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (2, 33, 48), (2, 3, 5, 48)])
def test_a_linear_layer_with_and_without_gradients(shape: tuple[int, ...], bias: bool) -> None:
    layer, inputs = random_linear(48, 20, bias=bias), normal(*shape)
    want = linear_in_float64(layer, inputs)
    for ways in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with ways():
            torch.testing.assert_close(layer(inputs).double(), want, atol=1e-5, rtol=0)
            torch.testing.assert_close(layer.gelu(inputs).double(), F.gelu(want), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_linear_layer_of_a_strided_view() -> None:
    layer, inputs = random_linear(48, 20), normal(2, 48, 33).transpose(1, 2)
    assert not inputs.is_contiguous()
    torch.testing.assert_close(layer(inputs).double(), linear_in_float64(layer, inputs), atol=1e-5, rtol=0)


def test_gradients_take_the_way_that_has_them() -> None:
    layer = random_linear(48, 20)
    assert not _onednn.serves(layer.weight)
    layer.gelu(normal(3, 48)).square().sum().backward()
    assert layer.weight.grad is not None
    assert bool(layer.weight.grad.any())
    with torch.no_grad():
        assert _onednn.serves(layer.weight) == torch.backends.mkldnn.is_available()
        assert not _onednn.serves(layer.weight.double())


@torch.inference_mode()
def test_float16_is_the_product_of_rounded_factors_rounded_once() -> None:
    layer, inputs = random_linear(300, 40), normal(7, 300)
    cast_linears(layer, "float16")
    assert layer.weight.dtype == torch.float16
    want = linear_in_float64(layer, inputs.half())
    got = layer(inputs)
    assert got.dtype == torch.float16
    # Half a step of float16 at that size, and what float32 sums up on the way.
    step = 2.0 ** (torch.floor(torch.log2(want.abs())) - 10)
    assert bool(((got.double() - want).abs() <= 0.5 * step + 1e-4).all())
    torch.testing.assert_close(layer.gelu(inputs), F.gelu(got), atol=0, rtol=0)


def softmax_in_float64(query: Tensor, key: Tensor, value: Tensor, added: Tensor | float) -> Tensor:
    query, key, value = query.double(), key.double(), value.double()
    logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + added
    return (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("learning", [False, True])
def test_attention(learning: bool, gated: bool) -> None:
    query, key, value = (3 * normal(2, 4, 33, 12, seed=seed) for seed in range(3))
    gate, bias = normal(2, 4, 33, 1, seed=3), 4 * normal(4, 33, 33, seed=4)
    with torch.set_grad_enabled(learning):
        got = attend(query, key, value, gate, bias) if gated else attend(query, key, value)
    want = softmax_in_float64(query, key, value, gate.double() * bias.double() if gated else 0.0)
    assert got.shape == (2, 33, 48)
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_attention_survives_logits_that_overflow_an_exponential() -> None:
    query, value = normal(1, 2, 9, 8), normal(1, 2, 9, 8, seed=1)
    got = attend(500 * query, query, value)
    want = softmax_in_float64(500 * query, query, value, 0.0)
    torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize(("precision", "error"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_attention_in_half_precision_takes_a_bias_in_float32(precision: str, error: float, learning: bool) -> None:
    dtype = getattr(torch, precision)
    query, key, value = (normal(1, 4, 33, 12, seed=seed).to(dtype) for seed in range(3))
    gate, bias = normal(1, 4, 33, 1, seed=3), normal(4, 33, 33, seed=4)
    with torch.set_grad_enabled(learning):
        got = attend(query, key, value, gate, bias)
    assert got.dtype == dtype
    want = softmax_in_float64(query, key, value, gate.double() * bias.double())
    torch.testing.assert_close(got.double(), want, atol=error, rtol=0)


@pytest.mark.parametrize("kernel", [16, 128])
@pytest.mark.parametrize("length", [1, 40, 496, 700])
def test_a_frozen_position_convolution_is_the_convolution(kernel: int, length: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = _PositionConv(32, kernel, 4)
    tokens = normal(3, length, 32)
    norm = conv.weight_v.double().square().sum(dim=(0, 1), keepdim=True).sqrt()
    weight = (conv.weight_v * conv.weight_g).double() / norm
    padded = F.pad(tokens.double().transpose(1, 2), (kernel // 2, kernel // 2))
    want = F.gelu(F.conv1d(padded, weight, groups=4)[..., :length].transpose(1, 2))
    torch.testing.assert_close(conv(tokens).double(), want, atol=1e-5, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(conv, CPU)(tokens).double(), want, atol=1e-5, rtol=0)


def test_a_frozen_model_says_the_same_and_keeps_the_released_names() -> None:
    model = random_beats(SMALL)
    names, features = list(model.state_dict()), normal(2, 330, 128)
    with torch.inference_mode():
        want = model(features)
        got = frozen(model, CPU)(features)
    assert list(model.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.encoder.pos_conv[0].spectrum is not None
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FULL)
def test_the_way_an_accelerator_takes_leads_to_the_same_logits(family: str, precision: str) -> None:
    """PyTorch's own layers and attention, which run wherever oneDNN is not asked: here because gradients are on."""
    teacher = tiny_teacher(family)
    features = teacher.front_end.compute(0.1 * normal(2, 32_000))
    with torch.inference_mode():
        exact = teacher._frame_logits(features, 50)
    teacher.use_precision(precision)
    with torch.inference_mode():
        by_onednn = teacher._frame_logits(features, 50)
    by_torch = teacher._frame_logits(features, 50)
    assert by_torch.dtype == torch.float32
    bits = {"float32": 22, "bfloat16": 8, "float16": 11}[precision]
    error = 4 * 2.0**-bits * float(exact.std())
    assert float((by_torch - by_onednn).abs().mean()) <= error
    assert float((by_torch - exact).abs().mean()) <= error
