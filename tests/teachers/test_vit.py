"""The shared transformer block against its definition, in float64 and head by head."""

import math

import pytest
import torch
from torch import Tensor

from teachers.families._vit import VitBlock, VitConfig, vit_blocks

CONFIG = VitConfig(width=24, layers=3, heads=4)


def random_block(*, qkv_bias: bool) -> VitBlock:
    block, generator = VitBlock(CONFIG, qkv_bias=qkv_bias), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return block


def by_definition(block: VitBlock, tokens: Tensor) -> Tensor:
    """[L, width] -> [L, width]."""
    state = {key: value.double() for key, value in block.state_dict().items()}

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros((), dtype=torch.float64))

    qkv = linear(norm(tokens, "norm1"), "attn.qkv")
    heads = []
    for head in range(4):
        query, key, value = (qkv[:, 24 * part + 6 * head : 24 * part + 6 * head + 6] for part in range(3))
        weights = (query @ key.T / math.sqrt(6)).exp()
        heads.append(weights / weights.sum(dim=1, keepdim=True) @ value)
    tokens = tokens + linear(torch.cat(heads, dim=1), "attn.proj")
    hidden = linear(norm(tokens, "norm2"), "mlp.fc1")
    return tokens + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), "mlp.fc2")


# Tokens as small as 1e-3 tell the norms' epsilon, 1e-6, from PyTorch's default.
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_a_block_is_what_it_is_defined_to_be(qkv_bias: bool, learns: bool, scale: float) -> None:
    block = random_block(qkv_bias=qkv_bias)
    tokens = scale * torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(not learns):
        got = block(tokens)
    for place in range(2):
        torch.testing.assert_close(got[place].double(), by_definition(block, tokens[place].double()), atol=1e-5, rtol=0)


def test_names_and_sizes_of_the_released_models() -> None:
    with torch.device("meta"):
        state = vit_blocks(VitConfig(), qkv_bias=False).state_dict()
    names = {f"{layer}.{part}" for layer in range(12) for part in (
        "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias", "norm2.weight",
        "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
    )}  # fmt: skip
    assert state.keys() == names
    assert state["11.attn.qkv.weight"].shape == (2304, 768)
    assert state["11.mlp.fc1.weight"].shape == (3072, 768)
