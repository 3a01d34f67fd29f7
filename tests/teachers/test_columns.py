"""Columns of a shorter context stand where the same columns stand at the start of a clip."""

import pytest
import torch

from teachers.families._columns import columns_to_frames, whole_columns
from teachers.families._parts import to_frames

CLIP = torch.randn(2, 62, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("frames", "columns"), [(250, 62), (125, 31), (100, 25), (50, 13)])
def test_frames_of_the_first_columns_are_the_first_frames(frames: int, columns: int) -> None:
    got = columns_to_frames(CLIP[:, :columns], frames)
    assert got.shape == (2, frames, 5)
    whole = to_frames(CLIP, 250)
    # Beyond its centre the last column has no next one to go over to.
    between = int((columns - 0.5) * 250 / 62 - 0.5) + 1 if columns < 62 else 250
    assert between >= frames - 2
    assert torch.equal(got[:, :between], whole[:, : min(between, frames)])
    assert torch.equal(got[:, between:], CLIP[:, columns - 1 : columns].expand(-1, max(0, frames - between), -1))


@pytest.mark.parametrize(
    ("frames", "features", "padded"), [(250, 998, 998), (125, 498, 498), (100, 398, 400), (50, 198, 208)]
)
def test_features_reach_as_far_as_the_columns(frames: int, features: int, padded: int) -> None:
    """A clip's are left as they are: the published model hears 62 columns of them."""
    given = torch.randn(2, features, 3)
    got = whole_columns(given, frames, silence=-1.5)
    assert got.shape == (2, padded, 3)
    assert torch.equal(got[:, :features], given)
    assert (got[:, features:] == -1.5).all()
