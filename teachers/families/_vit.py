"""The transformer that ATST-F, fPaSST, M2D and ASiT have in common, and the sizes of it.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (pre-norm blocks, module names as in timm).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from teachers.families._parts import Linear, attend

# Every released family's; PyTorch's own default is 1e-5.
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Sizes of a transformer; defaults: ViT-B, which all released models are. `heads` divides `width`."""

    width: int = 768
    layers: int = 12
    heads: int = 12


def vit_blocks(config: VitConfig, *, qkv_bias: bool = True) -> nn.Sequential:
    """Tokens [B, L, width] -> the same shape in float32, not normalised: the models norm what they take from it."""
    return nn.Sequential(*(VitBlock(config, qkv_bias=qkv_bias) for _ in range(config.layers)))


class VitBlock(nn.Module):
    """Attention, then a perceptron of four times the width, each on normalised tokens and added to the tokens."""

    def __init__(self, config: VitConfig, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = _Attention(config, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = _Mlp(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _Attention(nn.Module):
    def __init__(self, config: VitConfig, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width, bias=qkv_bias)
        self.proj = Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        # [B, L, 3 * width] -> 3 x [B, heads, L, width / heads]
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(query, key, value))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.fc1.gelu(tokens))
