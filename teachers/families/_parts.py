"""What the transformers share: linear layers in half precision beside a float32 residual stream, tokens to frames."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import UsageError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(nn.Linear):
    """A linear layer of a transformer block: it works, and answers, in the type of its weights.

    Everything else (front end, embeddings, norms, residual stream, heads) is float32 at every precision: a sum of
    float32 and half is float32, so that casting these weights is all that a precision takes.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


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
