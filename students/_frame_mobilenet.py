"""The frame-wise MobileNetV3-Large (`fmn`): 128 mel bins are folded into one, 1,000 mel frames into 250, 40 ms each.

Module names follow the released EfficientSED checkpoints, so their keys fit.
Source: Howard et al., ICCV 2019 (MobileNetV3); Schmid et al., ICASSP 2025 (frame-wise strides).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Block(NamedTuple):
    kernel: int
    expanded: int
    out: int
    gated: bool
    hard_swish: bool
    stride: tuple[int, int]  # (frequency, time)


_STEM_CHANNELS = 16
_LAST_EXPANSION = 6
# Channels are those of width 1.
_BLOCKS = (
    _Block(3, 16, 16, False, False, (1, 1)),
    _Block(3, 64, 24, False, False, (2, 2)),
    _Block(3, 72, 24, False, False, (2, 1)),
    _Block(5, 72, 40, True, False, (1, 1)),
    _Block(5, 120, 40, True, False, (1, 1)),
    _Block(5, 120, 40, True, False, (2, 1)),
    _Block(3, 240, 80, False, True, (1, 1)),
    _Block(3, 200, 80, False, True, (2, 1)),
    _Block(3, 184, 80, False, True, (1, 1)),
    _Block(3, 184, 80, False, True, (1, 1)),
    _Block(3, 480, 112, True, True, (2, 1)),
    _Block(3, 672, 112, True, True, (1, 1)),
    _Block(5, 672, 160, True, True, (1, 1)),
    _Block(5, 960, 160, True, True, (1, 1)),
    _Block(5, 960, 160, True, True, (2, 1)),
)


class FrameMobileNet(nn.Module):
    """Log mel [B, 1, 128, T] -> embeddings [B, ceil(T / 4), `embedding_size`]."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = _scaled(_STEM_CHANNELS, width)
        layers: list[nn.Module] = [_convolution(1, channels, 3, (2, 2), activation=nn.Hardswish)]
        for block in _BLOCKS:
            layers.append(_InvertedResidual(channels, block, width))
            channels = _scaled(block.out, width)
        self.embedding_size = _LAST_EXPANSION * channels
        layers.append(_convolution(channels, self.embedding_size, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)

    def forward(self, mel: Tensor) -> Tensor:
        return self.features(mel).mean(dim=2).transpose(1, 2)


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project; the input is added where shapes allow."""

    def __init__(self, channels: int, block: _Block, width: float) -> None:
        super().__init__()
        expanded, out = _scaled(block.expanded, width), _scaled(block.out, width)
        activation = nn.Hardswish if block.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != channels:
            layers.append(_convolution(channels, expanded, 1, activation=activation))
        layers.append(
            _convolution(expanded, expanded, block.kernel, block.stride, groups=expanded, activation=activation)
        )
        if block.gated:
            layers.append(_ChannelGate(expanded))
        layers.append(_convolution(expanded, out, 1))
        self.block = nn.Sequential(*layers)
        self.adds_input = block.stride == (1, 1) and channels == out

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.block(inputs)
        return outputs + inputs if self.adds_input else outputs


class _ChannelGate(nn.Module):
    """Squeeze-and-excitation over channels with a sigmoid (MobileNetV3 proper has a hard sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_Excitation(channels)])

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.conc_se_layers[0](inputs.mean(dim=(2, 3)))[:, :, None, None]


class _Excitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _to_eights(channels // 4)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, squeezed: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))


def _convolution(
    channels: int,
    out: int,
    kernel: int,
    stride: tuple[int, int] = (1, 1),
    *,
    groups: int = 1,
    activation: type[nn.Hardswish] | type[nn.ReLU] | None = None,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3, momentum=1e-2),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def _scaled(channels: int, width: float) -> int:
    return _to_eights(channels * width)


def _to_eights(channels: float) -> int:
    """The nearest multiple of 8, but never less than 90 % of what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
