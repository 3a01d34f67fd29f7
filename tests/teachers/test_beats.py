"""The model against a literal transcription of the published formulas, in float64 and with loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.families._beats import Beats, BeatsConfig, _relative_buckets, beats_features
from teachers.families._beats_teacher import StrongBeats
from tests.teachers.conftest import SMALL, random_beats


def reference_bucket(distance: int, buckets: int, max_distance: int) -> int:
    half = buckets // 2
    exact = half // 2
    offset = half if distance > 0 else 0
    distance = abs(distance)
    if distance < exact:
        return offset + distance
    far = exact + math.floor(math.log(distance / exact) / math.log(max_distance / exact) * (half - exact))
    return offset + min(far, half - 1)


@pytest.mark.parametrize(("length", "buckets", "max_distance"), [(496, 320, 800), (300, 32, 100), (60, 320, 800)])
def test_buckets_are_the_published_ones(length: int, buckets: int, max_distance: int) -> None:
    got = _relative_buckets(length, buckets, max_distance, torch.device("cpu"))
    want = [reference_bucket(distance, buckets, max_distance) for distance in range(1 - length, length)]
    assert got.tolist() == want


def reference_attention(tokens: Tensor, state: dict[str, Tensor], layer: int, config: BeatsConfig) -> Tensor:
    """[L, D] -> [L, D], query by query, with the published division by 32 and subtraction of the maximum."""
    at = f"encoder.layers.{layer}.self_attn."
    query, key, value = (
        F.linear(tokens, state[f"{at}{name}_proj.weight"], state[f"{at}{name}_proj.bias"]) for name in "qkv"
    )
    size = config.encoder_embed_dim // config.encoder_attention_heads
    table = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    out = torch.zeros_like(tokens)
    for head in range(config.encoder_attention_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(tokens)):
            q = query[i, part]
            gates = F.linear(q, state[at + "grep_linear.weight"], state[at + "grep_linear.bias"])
            a, b = torch.sigmoid(gates[:4].sum()), torch.sigmoid(gates[4:].sum())
            gate = a * (b * state[at + "grep_a"][0, head, 0, 0] - 1) + 2
            logits = key[:, part] @ q * size**-0.5 / 32
            logits = (logits - logits.max()) * 32
            buckets = [reference_bucket(j - i, config.num_buckets, config.max_distance) for j in range(len(tokens))]
            out[i, part] = torch.softmax(logits + gate * table[buckets, head], dim=0) @ value[:, part]
    return F.linear(out, state[at + "out_proj.weight"], state[at + "out_proj.bias"])


def reference_tokens(features: Tensor, state: dict[str, Tensor], config: BeatsConfig) -> Tensor:
    """One clip's features [T, 128] -> tokens [L, D]."""
    rows = []
    for t in range(features.shape[0] // 16):
        for f in range(8):
            patch = features[16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            rows.append((state["patch_embedding.weight"][:, 0] * patch).sum(dim=(1, 2)))
    x = F.layer_norm(torch.stack(rows), (config.embed_dim,), state["layer_norm.weight"], state["layer_norm.bias"])
    x = F.linear(x, state["post_extract_proj.weight"], state["post_extract_proj.bias"])
    weight_v, weight_g = state["encoder.pos_conv.0.weight_v"], state["encoder.pos_conv.0.weight_g"]
    weight = torch.stack(
        [weight_g[0, 0, k] * weight_v[..., k] / weight_v[..., k].norm() for k in range(config.conv_pos)], dim=2
    )
    padded = F.pad(x.t()[None], (config.conv_pos // 2, config.conv_pos // 2))
    conv = F.conv1d(padded, weight, state["encoder.pos_conv.0.bias"], groups=config.conv_pos_groups)
    x = x + F.gelu(conv[0, :, : len(x)].t())
    width = (config.encoder_embed_dim,)
    x = F.layer_norm(x, width, state["encoder.layer_norm.weight"], state["encoder.layer_norm.bias"])
    alpha = (2 * config.encoder_layers) ** 0.25
    for layer in range(config.encoder_layers):
        at = f"encoder.layers.{layer}."
        x = x * alpha + reference_attention(x, state, layer, config)
        x = F.layer_norm(x, width, state[at + "self_attn_layer_norm.weight"], state[at + "self_attn_layer_norm.bias"])
        hidden = F.gelu(F.linear(x, state[at + "fc1.weight"], state[at + "fc1.bias"]))
        x = x * alpha + F.linear(hidden, state[at + "fc2.weight"], state[at + "fc2.bias"])
        x = F.layer_norm(x, width, state[at + "final_layer_norm.weight"], state[at + "final_layer_norm.bias"])
    return x


def test_tokens_are_those_of_the_published_formulas(small_model: Beats) -> None:
    features = torch.randn(2, 83, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = small_model(features)
    state = {key: tensor.detach().double() for key, tensor in small_model.state_dict().items()}
    for clip in range(2):
        want = reference_tokens(features[clip].double(), state, SMALL)
        assert tokens[clip].shape == want.shape == (5 * 8, 48)
        torch.testing.assert_close(tokens[clip].double(), want, atol=2e-5, rtol=0)


def test_frame_logits_average_a_column_then_interpolate(small_model: Beats) -> None:
    features = torch.randn(1, 998, 128, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        tokens = small_model.token_logits(features)[0].numpy()
        frames = small_model.frame_logits(features, 250)[0].numpy()
        clip = small_model.clip_logits(features)[0].numpy()
    columns = tokens.reshape(62, 8, 7).mean(axis=1)
    centres = (np.arange(250) + 0.5) * 62 / 250 - 0.5  # align_corners False, held at the ends
    want = np.stack([np.interp(centres, np.arange(62), columns[:, c]) for c in range(7)])
    np.testing.assert_allclose(frames, want, atol=1e-5)
    np.testing.assert_allclose(clip, tokens.mean(axis=0), atol=1e-5)


def test_strong_frames_pool_the_flattened_tokens() -> None:
    model = StrongBeats(SMALL, 5, weak_head=True)
    model.model = random_beats(SMALL)
    features = torch.randn(1, 998, 128, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        tokens = model.model(features)[0]
        logits, clip = model.frame_logits(features, 250)[0], model.clip_logits(features, 250)[0]
        frames = torch.stack([tokens[t * 496 // 250 : -(-(t + 1) * 496 // 250)].mean(dim=0) for t in range(250)])
        assert len(tokens) == 496
        torch.testing.assert_close(logits, model.strong_head(frames).t(), atol=1e-5, rtol=0)
        torch.testing.assert_close(clip, model.weak_head(frames.mean(dim=0)), atol=1e-5, rtol=0)


def test_a_fresh_model_learns_and_every_parameter_takes_part() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Beats(SMALL)
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(4, 48, 128, generator=generator)
    labels = (torch.rand(4, 7, 250, generator=generator) < 0.3).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = F.binary_cross_entropy_with_logits(model.frame_logits(features, 250), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Softmax does not see a constant added to all keys' logits of a query, so a key bias has no gradient but rounding.
    assert [name for name in idle if "k_proj.bias" not in name] == []
    assert losses[-1] < 0.9 * losses[0]


def test_parameter_count_is_the_published_one() -> None:
    """91.0 M with both heads; one relative bias table, not twelve."""
    with torch.device("meta"):
        model = StrongBeats(BeatsConfig(), 447, weak_head=True)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 91.0


def test_features_of_ten_seconds() -> None:
    assert beats_features(torch.zeros(2, 160_000)).shape == (2, 998, 128)
