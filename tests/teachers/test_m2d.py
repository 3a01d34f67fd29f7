"""M2D's own: how patches become wide tokens, what a shorter context hears, which tensors of a file it leaves aside."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import TeacherError
from teachers.families._m2d import M2d, m2d_features
from teachers.families._strong import StrongTeacher, load_strong
from tests.teachers.tiny_families import VIT, tiny_checkpoint, tiny_family, tiny_teacher, tiny_tensors

FRONT_END = {
    "to_spec.mel_basis": (80, 201),
    "to_spec.stft.window_mask": (1, 400, 1),
    "to_spec.stft.wsin": (201, 1, 400),
    "to_spec.stft.wcos": (201, 1, 400),
}


@pytest.fixture
def model() -> M2d:
    found = tiny_teacher("m2d").model.model
    assert isinstance(found, M2d)
    return found


def spectrogram(frames: int) -> Tensor:
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(0))


def embedded(model: M2d, features: Tensor) -> Tensor:
    """[5 rows, columns, width]: patches with their positions, before the blocks, with loops."""
    state = {key: tensor.double() for key, tensor in model.backbone.state_dict().items()}
    weight, bias = state["patch_embed.proj.weight"][:, 0], state["patch_embed.proj.bias"]
    columns = features.shape[2] // 16
    rows = torch.zeros(5, columns, VIT.width, dtype=torch.float64)
    for f in range(5):
        for t in range(columns):
            patch = features[0, 16 * f : 16 * f + 16, 16 * t : 16 * t + 16]
            rows[f, t] = (weight * patch).sum(dim=(1, 2)) + bias + state["pos_embed"][0, 1 + 62 * f + t]
    return rows


@pytest.mark.parametrize(("frames", "columns"), [(1001, 62), (501, 31), (401, 25), (201, 12)])
def test_a_column_of_rows_is_a_token(frames: int, columns: int, model: M2d) -> None:
    """And a shorter context has the positions of the clip's first columns."""
    model.backbone.blocks = nn.Identity()
    with torch.inference_mode():
        tokens = model(spectrogram(frames))[0]
    rows = embedded(model, spectrogram(frames))
    norm = model.backbone.norm
    want = nn.functional.layer_norm(rows, (VIT.width,), norm.weight.double(), norm.bias.double(), 1e-6)
    torch.testing.assert_close(tokens.double(), want.transpose(0, 1).flatten(1), atol=1e-5, rtol=0)
    assert tokens.shape == (columns, 5 * VIT.width)


@pytest.mark.parametrize(("seconds", "columns"), [(10, 62), (5, 31), (4, 25), (2, 13)])
def test_frames_lie_as_at_the_start_of_ten_seconds(seconds: int, columns: int) -> None:
    """Frame t between the columns around (t + 0.5) * 62 / 250 - 0.5; a last column that is not whole ends in zeros."""
    teacher = tiny_teacher("m2d")
    features = spectrogram(100 * seconds + 1)
    filled = torch.cat([features, torch.zeros(1, 80, 16)], dim=2)[..., : 16 * columns]
    with torch.inference_mode():
        frames = teacher.model.frames(features, 25 * seconds)[0]
        tokens = teacher.model.model(filled)[0]
    places = (np.arange(25 * seconds) + 0.5) * 62 / 250 - 0.5
    want = np.stack([np.interp(places, np.arange(columns), token) for token in tokens.numpy().T], axis=1)
    np.testing.assert_allclose(frames.numpy(), want, atol=1e-4, rtol=0)


def test_the_class_token_is_heard_but_not_given(model: M2d) -> None:
    with torch.inference_mode():
        before = model(spectrogram(201))
        model.backbone.cls_token.neg_()
        after = model(spectrogram(201))
    assert before.shape == after.shape == (1, 12, 5 * VIT.width)
    assert (before - after).abs().max() > 1e-3


def test_features_of_every_context() -> None:
    for seconds, frames in ((10, 1001), (5, 501), (4, 401), (2, 201)):
        assert m2d_features(torch.zeros(2, seconds * 16_000)).shape == (2, 80, frames)


@pytest.mark.parametrize("prefix", ["model.", "model.m2d."])
def test_both_prefixes_and_what_a_file_holds_beside_the_model(prefix: str) -> None:
    """Front end constants and statistics are left aside, whatever they say: the published code does not use them."""
    tensors = tiny_tensors("m2d")
    plain = load(tensors)
    named = {prefix + key.removeprefix("model.") if key.startswith("model.") else key: tensors[key] for key in tensors}
    named[prefix + "backbone.norm_stats"] = torch.tensor([-1.0, 2.0])
    for key, shape in FRONT_END.items():
        named[prefix + key] = torch.full(shape, torch.nan)
    clip = 0.1 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load(named).frame_logits(clip), plain.frame_logits(clip))


def test_one_tensor_under_both_prefixes() -> None:
    tensors = tiny_tensors("m2d")
    tensors["model.m2d.backbone.norm.weight"] = tensors["model.backbone.norm.weight"]
    with pytest.raises(TeacherError, match=r"holds model.backbone.norm.weight twice"):
        load(tensors)


def test_the_wide_tokens_need_wide_heads() -> None:
    tensors = tiny_tensors("m2d")
    tensors["strong_head.weight"] = tensors["strong_head.weight"][:, : VIT.width]
    with pytest.raises(TeacherError, match=r"strong_head.weight has shape \(447, 48\), this model needs \(447, 240\)"):
        load(tensors)


def load(tensors: dict[str, Tensor]) -> StrongTeacher:
    return load_strong(tiny_checkpoint(tensors), torch.device("cpu"), tiny_family("m2d"))
