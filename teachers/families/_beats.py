"""BEATs: a transformer over 16 x 16 patches of a kaldi filter bank. Its modules are named as in released checkpoints.

Source: Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.features import KaldiFbank, kaldi_fbank
from teachers._teacher import FrontEnd
from teachers.families._columns import columns_to_frames, whole_columns
from teachers.families._parts import Freezable, Linear, attend

FBANK = KaldiFbank(sample_rate=16_000, mel_bins=128, low_hz=20.0, high_hz=8_000.0)
_FBANK_MEAN = 15.41663
_FBANK_STD = 6.55582
# What a normalised frame of zeros holds: kaldi floors energies at the machine epsilon.
_SILENCE = (math.log(2.0**-23) - _FBANK_MEAN) / (2.0 * _FBANK_STD)


@dataclass(frozen=True, kw_only=True)
class BeatsConfig:
    """Sizes, named as in a checkpoint's `cfg`; defaults: the released models. `predictor_class` 0: no predictor."""

    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    deep_norm: bool = True
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    predictor_class: int = 0

    @property
    def frequency_tokens(self) -> int:
        """Tokens per time column: 8."""
        return FBANK.mel_bins // self.input_patch_size

    @property
    def residual_scale(self) -> float:
        """Deep norm's alpha for an encoder-only model."""
        return (2.0 * self.encoder_layers) ** 0.25 if self.deep_norm else 1.0


def beats_features(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> normalised filter bank [B, frames, 128]; 998 frames for 10 s."""
    return (kaldi_fbank(waveforms * 2.0**15, FBANK) - _FBANK_MEAN) / (2.0 * _FBANK_STD)


BEATS_FEATURES = FrontEnd("kaldi_fbank", beats_features)


class Beats(nn.Module):
    """Features [B, T, 128] of `beats_features` -> tokens [B, T // 16 * 8, width], time-major: token = column * 8 + row.

    A fresh model starts from deep norm's initial values and trains from scratch. `state_dict()` has the keys of
    a released file's `model`.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        patch, width = config.input_patch_size, config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, width) if config.embed_dim != width else nn.Identity()
        self.encoder = _Encoder(config)
        self.predictor = nn.Linear(width, config.predictor_class) if config.predictor_class else None

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_embedding(features[:, None]).flatten(2).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(patches)))

    def token_logits(self, features: Tensor) -> Tensor:
        """The predictor on every token: [B, 496, classes] for 10 s."""
        return self._predictor(self(features))

    def clip_logits(self, features: Tensor) -> Tensor:
        """[B, classes]: the mean over tokens, as the published classifier takes it."""
        return self._predictor(self(features).mean(dim=1))

    def frame_logits(self, features: Tensor, frames: int) -> Tensor:
        """[B, classes, frames]: the tokens of a column averaged, then interpolated in time to the 40 ms grid.

        Averaging before the predictor is the same number as after it (both are linear) at an eighth of the work.
        """
        return self._predictor(self.column_frames(features, frames)).transpose(1, 2)

    def column_frames(self, features: Tensor, frames: int) -> Tensor:
        """[B, frames, width]: the mean of each column's tokens (one per 160 ms, 62 for 10 s), brought to frames."""
        tokens = self(whole_columns(features, frames, _SILENCE))
        return columns_to_frames(tokens.unflatten(1, (-1, self.config.frequency_tokens)).mean(dim=2), frames)

    def _predictor(self, tokens: Tensor) -> Tensor:
        if self.predictor is None:
            raise TypeError("this BEATs was built without a predictor (predictor_class 0)")
        return self.predictor(tokens)


class _Encoder(nn.Module):
    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv = nn.Sequential(_PositionConv(config.encoder_embed_dim, config.conv_pos, config.conv_pos_groups))
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        # One table for all layers. It sits in every layer because released checkpoints list it under each of them.
        table = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        nn.init.xavier_normal_(table.weight)
        self.layers = nn.ModuleList(_Layer(config, table) for _ in range(config.encoder_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.layer_norm(tokens + self.pos_conv(tokens))
        length = tokens.shape[1]
        buckets = _relative_buckets(length, self.config.num_buckets, self.config.max_distance, tokens.device)
        by_distance = self.layers[0].self_attn.relative_attention_bias(buckets).t().contiguous()
        # Row i of the bias holds distances -i .. length - 1 - i: a window over all of them, one step earlier per query.
        bias = by_distance.unfold(1, length, 1).flip(1)
        for layer in self.layers:
            tokens = layer(tokens, bias)
        return tokens


class _PositionConv(Freezable):
    """Grouped convolution over tokens, weight norm per kernel tap (dim 2); an even kernel drops its last output."""

    spectrum: Tensor | None

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.kernel = kernel
        weight = torch.randn(width, width // groups, kernel) * math.sqrt(4.0 / (kernel * width))
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("spectrum", None, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, width] -> the same shape."""
        if self.spectrum is not None:
            return F.gelu(self._by_fft(tokens, self.spectrum) + self.bias)
        channels = tokens.transpose(1, 2)
        out = F.conv1d(channels, self._weight(), self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(out[..., : tokens.shape[1]].transpose(1, 2))

    def freeze(self) -> None:
        """As products in the frequency domain the 128 taps cost a small part of the operations, all in float32."""
        spectrum = torch.fft.rfft(self._weight(), n=2 * self.kernel).conj()
        # [width, width / groups, bins] -> for every bin and group a matrix [width / groups, width / groups].
        spectrum = spectrum.unflatten(0, (self.groups, -1)).permute(3, 0, 1, 2).flatten(0, 1)
        self.spectrum = spectrum.resolve_conj().contiguous()

    def _by_fft(self, tokens: Tensor, spectrum: Tensor) -> Tensor:
        """Overlap-save: of every two kernels' length of tokens the first half comes out whole."""
        clips, length, width = tokens.shape
        before, blocks = self.kernel // 2, -(-length // self.kernel)
        padded = F.pad(tokens, (0, 0, before, (blocks + 1) * self.kernel - length - before))
        bins = torch.fft.rfft(padded.unfold(1, 2 * self.kernel, self.kernel)).permute(3, 2, 0, 1)
        out = spectrum @ bins.reshape(len(spectrum), -1, clips * blocks)
        out = torch.fft.irfft(out.reshape(-1, width, clips, blocks).permute(2, 3, 1, 0))[..., : self.kernel]
        return out.transpose(2, 3).flatten(1, 2)[:, :length]

    def _weight(self) -> Tensor:
        norm = torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)
        return self.weight_v * (self.weight_g / norm)


class _Layer(nn.Module):
    def __init__(self, config: BeatsConfig, table: nn.Embedding) -> None:
        super().__init__()
        width, beta = config.encoder_embed_dim, (8.0 * config.encoder_layers) ** -0.25 if config.deep_norm else 1.0
        self.scale = config.residual_scale
        self.self_attn = _GatedAttention(width, config.encoder_attention_heads, table, beta)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = _linear(width, config.encoder_ffn_embed_dim, beta)
        self.fc2 = _linear(config.encoder_ffn_embed_dim, width, beta)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        tokens = self.self_attn_layer_norm(tokens * self.scale + self.self_attn(tokens, bias))
        return self.final_layer_norm(tokens * self.scale + self.fc2(self.fc1.gelu(tokens)))


class _GatedAttention(nn.Module):
    """Attention whose relative position bias [heads, L, L] is scaled per query by a gate read off that query.

    The published code divides the logits by 32, subtracts their maximum and multiplies by 32 again, for float16's
    range. Softmax does not see the shift, so in float32 this is plain attention.
    """

    def __init__(self, width: int, heads: int, table: nn.Embedding, beta: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = _linear(width, width, 1.0)
        self.k_proj = _linear(width, width, 1.0)
        self.v_proj = _linear(width, width, beta)
        self.out_proj = _linear(width, width, beta)
        self.relative_attention_bias = table
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            projection(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(query, key, value, self._gate(query.float()), bias))

    def _gate(self, query: Tensor) -> Tensor:
        """[B, heads, L, 1]. Of the 8 outputs of `grep_linear` only two sums of four are used: two outputs do."""
        weight = self.grep_linear.weight.unflatten(0, (2, 4)).sum(dim=1)
        bias = self.grep_linear.bias.unflatten(0, (2, 4)).sum(dim=1)
        gates = F.linear(query, weight, bias).sigmoid()
        return gates[..., :1] * (gates[..., 1:] * self.grep_a - 1.0) + 2.0


def _relative_buckets(length: int, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """Bucket of each distance key - query, 1 - length .. length - 1: exact when near, then logarithmic."""
    distance = torch.arange(1 - length, length, device=device)
    half = buckets // 2
    exact = half // 2
    magnitude = distance.abs()
    ratio = (magnitude.clamp_min(1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp_max(half - 1)
    return torch.where(magnitude < exact, magnitude, far) + half * (distance > 0)


def _linear(inputs: int, outputs: int, gain: float) -> Linear:
    layer = Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer
