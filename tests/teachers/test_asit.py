"""ASiT's own: its token order, its resized positions, its class token in the first frame, its front end."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from teachers.families._asit import Asit, asit_features
from tests.teachers.tiny_families import VIT, tiny_teacher


@pytest.fixture
def model() -> Asit:
    found = tiny_teacher("asit").model.model
    assert isinstance(found, Asit)
    return found


def fbank(frames: int = 998) -> Tensor:
    return torch.randn(1, frames, 128, generator=torch.Generator().manual_seed(0))


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x = abs(distance)
    if x <= 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0


def resizing(before: int, after: int) -> np.ndarray:
    """[after, before] weights of bicubic resizing between cell centres, held at the ends."""
    weights = np.zeros((after, before))
    for place in range(after):
        centre = (place + 0.5) * before / after - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[place, min(max(tap, 0), before - 1)] += cubic(centre - tap)
    return weights


def test_tokens_are_time_major_with_positions_resized_as_published(model: Asit) -> None:
    """A table of 8 x 37 becomes 62 x 8: token (t, f) has what was learned near (t * 8 / 62, f * 37 / 8)."""
    model.blocks = nn.Identity()
    with torch.inference_mode():
        tokens = model(fbank())[0]
    state = {key: tensor.double() for key, tensor in model.state_dict().items()}
    weight, bias = state["patch_embed.proj.weight"][:, 0], state["patch_embed.proj.bias"]
    table = state["pos_embed"][0, 1:].reshape(8, 37, VIT.width).numpy()
    positions = np.einsum("tr,fc,rcw->tfw", resizing(8, 62), resizing(37, 8), table)
    rows = [state["cls_token"][0, 0] + state["pos_embed"][0, 0]]
    for t in range(62):
        for f in range(8):
            patch = fbank()[0, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            rows.append((weight * patch).sum(dim=(1, 2)) + bias + torch.from_numpy(positions[t, f]))
    want = nn.functional.layer_norm(
        torch.stack(rows), (VIT.width,), state["norm.weight"], state["norm.bias"], 1e-6
    )  # fmt: skip
    assert tokens.shape == (497, VIT.width)
    torch.testing.assert_close(tokens.double(), want, atol=1e-5, rtol=0)


def test_frames_pool_the_flattened_tokens_class_token_first() -> None:
    model = tiny_teacher("asit").model
    with torch.inference_mode():
        tokens = model.model(fbank())[0]
        frames = model.frames(fbank(), 250)[0]
    want = torch.stack([tokens[t * 497 // 250 : -(-(t + 1) * 497 // 250)].mean(dim=0) for t in range(250)])
    torch.testing.assert_close(frames, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[0], tokens[:2].mean(dim=0), atol=1e-5, rtol=0)


def test_features_leave_out_the_clips_mean() -> None:
    clip = 0.1 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(1))
    features = asit_features(clip)
    assert features.shape == (1, 998, 128)
    torch.testing.assert_close(asit_features(clip + 0.25), features, atol=1e-3, rtol=0)


def test_silence_lies_at_the_normalised_floor() -> None:
    floor = (np.log(2.0**-23) + 4.2677393) / (2 * 4.5689974)
    torch.testing.assert_close(asit_features(torch.zeros(1, 1600)), torch.full((1, 8, 128), float(floor)))


def test_ten_seconds_are_its_only_context() -> None:
    assert tiny_teacher("asit").contexts_ms == (10_000,)
