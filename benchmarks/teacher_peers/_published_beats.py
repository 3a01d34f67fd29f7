"""BEATs as its authors' code runs it, restated: the loop that ours is measured beside."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import FRAMES
from teachers import beats_features
from teachers.families._beats import Beats, _GatedAttention, _Layer
from teachers.families._beats_teacher import StrongBeats
from teachers.families._strong import StrongTeacher

_ALPHA = 32.0


def published_beats(teacher: StrongTeacher, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """Float32 [B, 160000] -> logits [B, classes, 250], with a copy of the teacher's weights that is all in `dtype`."""
    strong = copy.deepcopy(teacher.model)
    if not isinstance(strong, StrongBeats):
        raise TypeError(f"published_beats got a {type(strong).__name__}, needs a StrongBeats")
    strong.model.encoder.pos_conv[0].spectrum = None
    model = _PublishedBeats(strong.to(dtype))

    def loop(waveforms: Tensor) -> Tensor:
        with torch.no_grad():
            # The published code makes the filter bank clip by clip, in whatever batch the model then runs.
            features = torch.cat([beats_features(waveform[None]) for waveform in waveforms])
            return model(features.to(dtype)).float()

    return loop


class _PublishedBeats(nn.Module):
    """The published steps: weight norm in every call, tokens first and clips second, explicit softmax of logits that
    are divided by 32 and multiplied again, the position bias worked out for every pair of tokens and repeated for
    every clip."""

    def __init__(self, strong: StrongBeats) -> None:
        super().__init__()
        self.strong = strong

    def forward(self, features: Tensor) -> Tensor:
        model = self.strong.model
        patches = model.patch_embedding(features[:, None]).flatten(2).transpose(1, 2)
        tokens = model.post_extract_proj(model.layer_norm(patches))
        tokens = model.encoder.layer_norm(tokens + self._positions(tokens)).transpose(0, 1)
        bias = self._bias(model, len(tokens)).unsqueeze(0).repeat(len(features), 1, 1, 1).flatten(0, 1)
        for layer in model.encoder.layers:
            tokens = self._layer(layer, tokens, bias)
        frames = F.adaptive_avg_pool1d(tokens.permute(1, 2, 0), FRAMES).transpose(1, 2)
        return self.strong.strong_head(frames).transpose(1, 2)

    def _positions(self, tokens: Tensor) -> Tensor:
        conv = self.strong.model.encoder.pos_conv[0]
        weight = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
        out = F.conv1d(tokens.transpose(1, 2), weight, conv.bias, padding=conv.kernel // 2, groups=conv.groups)
        return F.gelu(out[..., :-1]).transpose(1, 2)

    def _layer(self, layer: _Layer, tokens: Tensor, bias: Tensor) -> Tensor:
        tokens = layer.self_attn_layer_norm(tokens * layer.scale + self._attention(layer.self_attn, tokens, bias))
        hidden = F.gelu(F.linear(tokens, layer.fc1.weight, layer.fc1.bias))
        return layer.final_layer_norm(tokens * layer.scale + F.linear(hidden, layer.fc2.weight, layer.fc2.bias))

    def _attention(self, attention: _GatedAttention, tokens: Tensor, bias: Tensor) -> Tensor:
        length, clips, width = tokens.shape
        heads, size = attention.heads, width // attention.heads
        query, key, value = (
            F.linear(tokens, projection.weight, projection.bias)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query = query * (size**-0.5 / _ALPHA)
        query, key, value = (part.reshape(length, clips * heads, size).transpose(0, 1) for part in (query, key, value))
        logits = torch.bmm(query, key.transpose(1, 2))
        logits = (logits - logits.amax(dim=-1, keepdim=True)) * _ALPHA
        gates = attention.grep_linear(query.unflatten(0, (clips, heads)) * (_ALPHA * size**0.5))
        a, b = gates.unflatten(3, (2, 4)).sum(dim=-1).sigmoid().chunk(2, dim=-1)
        gate = (a * (b * attention.grep_a - 1.0) + 2.0).reshape(clips * heads, length, 1)
        attended = torch.bmm(F.softmax(logits + gate * bias, dim=-1), value)
        attended = attended.transpose(0, 1).reshape(length, clips, width)
        return F.linear(attended, attention.out_proj.weight, attention.out_proj.bias)

    def _bias(self, model: Beats, length: int) -> Tensor:
        """[heads, L, L], a bucket looked up for every pair of tokens."""
        config = model.config
        places = torch.arange(length, device=next(model.parameters()).device)
        distance = places[None, :] - places[:, None]
        half = config.num_buckets // 2
        exact = half // 2
        near = distance.abs()
        far = torch.log(near.clamp_min(1).float() / exact) / math.log(config.max_distance / exact) * (half - exact)
        bucket = torch.where(near < exact, near, (exact + far.long()).clamp_max(half - 1)) + half * (distance > 0)
        return model.encoder.layers[0].self_attn.relative_attention_bias(bucket).permute(2, 0, 1)
