"""What the transformers share: linear layers and attention at every precision, tokens to frames."""

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import UsageError
from teachers.families import _onednn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """A linear layer of a transformer block: it works, and answers, in the type of its weights.

    Everything else (front end, embeddings, norms, residual stream, heads) is float32 at every precision: a sum of
    float32 and half is float32, so that casting these weights is all that a precision takes.
    """

    def forward(self, input: Tensor) -> Tensor:
        input = input.to(self.weight.dtype)
        if _onednn.serves(input):
            return _onednn.product(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias)

    def gelu(self, input: Tensor) -> Tensor:
        """GELU of the layer's answer."""
        input = input.to(self.weight.dtype)
        if _onednn.serves(input):
            return _onednn.product(input, self.weight, self.bias, gelu=True)
        return F.gelu(F.linear(input, self.weight, self.bias))


def attend(query: Tensor, key: Tensor, value: Tensor, gate: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """softmax(query . key / sqrt(D) + gate * bias) value: three times [B, heads, L, D] -> [B, L, heads * D].

    gate [B, heads, L, 1] and bias [heads, L, L], both or neither: what is added to the logits of a query, and how much
    of it. Both in float32, whatever the rest is in.
    """
    if _onednn.serves(query):
        return _onednn.attention(query, key, value, gate, bias)
    # [B, heads, L, L], by far the largest thing here: never in float32 where the rest is in half.
    mask = None if gate is None or bias is None else gate.to(query.dtype) * bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


class Freezable(nn.Module, ABC):
    """A part that works something out of its weights alone, once for a model that no longer learns."""

    @abstractmethod
    def freeze(self) -> None: ...


def frozen(model: M, device: torch.device) -> M:
    """`model` on `device`, from now on only asked: no gradients, and every `Freezable` part frozen."""
    model = model.to(device).eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, Freezable):
            part.freeze()
    return model


def cast_linears(module: nn.Module, precision: str) -> None:
    """Give every `Linear` in `module` weights of `precision`, one of PRECISIONS. From float32 only: halves lost bits.

    Raises UsageError for another precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}, needs one of {', '.join(PRECISIONS)}")
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.to(PRECISIONS[precision])


def to_frames(tokens: Tensor, frames: int) -> Tensor:
    """Tokens [B, L, width] in time order -> [B, frames, width] as PretrainedSED aligns them.

    More tokens than frames are averaged (adaptive), fewer are interpolated linearly between their centres.
    """
    if tokens.shape[1] == frames:
        return tokens
    channels = tokens.transpose(1, 2)
    if tokens.shape[1] > frames:
        return F.adaptive_avg_pool1d(channels, frames).transpose(1, 2)
    return F.interpolate(channels, size=frames, mode="linear", align_corners=False).transpose(1, 2)
