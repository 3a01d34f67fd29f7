"""Gain, polarity and rotation against what they mean for a plane wave; of all augmentations, that they are pure."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from pipeline import UsageError
from shards import Batch, crop_to, gain, mixup, polarity, roll_time, rotate_foa

AXES = {"doa": ("time", "track", "xyz"), "sed": ("time", "track", "class"), "distance": ("xyz", "time")}


def encoded(sound: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """First-order ambisonics [B, 4, N] (W, Y, Z, X; SN3D) of plane waves: sound [B, N] from unit vectors [B, 3]."""
    x, y, z = direction.unbind(1)
    return torch.stack([torch.ones_like(x), y, z, x], 1)[:, :, None] * sound[:, None, :]


def foa_batch(clips: int = 64, *, seed: int = 0, dtype: torch.dtype = torch.float64, samples: int = 6_400) -> Batch:
    """Each clip is one plane wave; `doa` is its direction in every frame, `distance` a vector of metres along it."""
    generator = torch.Generator().manual_seed(seed)
    frames = samples // 640
    direction = torch.randn(clips, 3, generator=generator, dtype=dtype)
    direction /= direction.norm(dim=1, keepdim=True)
    sound = torch.rand(clips, samples, generator=generator, dtype=dtype) - 0.5
    return Batch(
        waveform=encoded(sound, direction),
        targets={
            "doa": direction[:, None, None, :].expand(clips, frames, 1, 3),
            "distance": 2.5 * direction[:, :, None].expand(clips, 3, frames),
            "sed": torch.rand(clips, frames, 1, 2, generator=generator, dtype=dtype),
            "weak": torch.rand(clips, 5, generator=generator, dtype=dtype),
        },
        weight={
            "doa": torch.ones(clips, frames, 1, 1, dtype=dtype),
            "distance": torch.ones(clips, dtype=dtype),
            "sed": torch.ones(clips, frames, 1, 1, dtype=dtype),
            "weak": torch.ones(clips, 5, dtype=dtype),
        },
        valid_frames=torch.full((clips,), frames),
        source=["s"] * clips,
        key=[f"clip{clip}" for clip in range(clips)],
        axes=AXES,
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    targets = {f"target {name}": values for name, values in batch.targets.items()}
    weights = {f"weight {name}": values for name, values in batch.weight.items()}
    return {"waveform": batch.waveform, "valid_frames": batch.valid_frames, **targets, **weights}


AUGMENTATIONS: dict[str, Callable[..., Batch]] = {
    "mixup": mixup,
    "roll_time": roll_time,
    "crop_to": partial(crop_to, clip_ms=120),
    "gain": gain,
    "polarity": polarity,
    "rotate_foa": rotate_foa,
    "rotate_foa by any angle": partial(rotate_foa, angles="any"),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_is_a_function_of_batch_and_generator_that_leaves_the_batch_alone(name: str) -> None:
    augment, before = AUGMENTATIONS[name], foa_batch()
    copies = {part: values.clone() for part, values in tensors_of(before).items()}
    parts = {part: id(getattr(before, part)) for part in ("targets", "weight", "source", "key")}
    first, again, other = (augment(before, generator=seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(values, copies[part]) for part, values in tensors_of(before).items())
    assert all(torch.equal(values, tensors_of(again)[part]) for part, values in tensors_of(first).items())
    assert not torch.equal(first.waveform, other.waveform)
    assert not any(id(getattr(first, part)) == was for part, was in parts.items())
    assert (first.source, first.key, first.axes) == (before.source, before.key, before.axes)
    generator = seeded(1)
    augment(before, generator=generator)
    assert not torch.equal(augment(before, generator=generator).waveform, first.waveform)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_on_the_device_as_on_the_host(name: str) -> None:
    before = foa_batch(dtype=torch.float32)
    host = AUGMENTATIONS[name](before, generator=seeded(1))
    device = AUGMENTATIONS[name](before.to("cuda"), generator=seeded(1))
    for part, values in tensors_of(device).items():
        assert values.is_cuda
        torch.testing.assert_close(values.cpu(), tensors_of(host)[part])


def test_gain_is_one_factor_a_clip_evenly_spread_in_decibels() -> None:
    before = foa_batch(clips=2_000, samples=640)
    after = gain(before, generator=seeded(0), max_db=6)
    factors = (after.waveform / before.waveform).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    decibels = 20 * factors[:, 0].log10()
    assert -6 <= decibels.min() < -5.9
    assert 5.9 < decibels.max() <= 6
    assert decibels.std().item() == pytest.approx(12 / math.sqrt(12), rel=0.05)
    assert after.targets["doa"] is before.targets["doa"]


def test_polarity_turns_whole_clips_with_the_probability_asked_for() -> None:
    before = foa_batch(clips=2_000, samples=640)
    for probability in (0.0, 0.3, 1.0):
        signs = (polarity(before, generator=seeded(0), probability=probability).waveform / before.waveform).flatten(1)
        assert torch.equal(signs, signs[:, :1].expand_as(signs))
        assert (signs[:, 0] == -1).double().mean().item() == pytest.approx(probability, abs=0.04)
        assert (signs[:, 0].abs() == 1).all()


def check_encoding(before: Batch, after: Batch) -> torch.Tensor:
    """The turned wave is the wave of the turned direction; returns the new directions."""
    direction = after.targets["doa"][:, 0, 0]
    sound = before.waveform[:, 0]
    torch.testing.assert_close(after.waveform, encoded(sound, direction))
    torch.testing.assert_close(after.targets["doa"], direction[:, None, None].expand_as(before.targets["doa"]))
    torch.testing.assert_close(after.targets["distance"], 2.5 * direction[:, :, None].expand(-1, -1, 10))
    for name in ("sed", "weak"):
        assert after.targets[name] is before.targets[name]
    return direction


def test_right_angles_and_mirrors_are_the_16_exact_patterns() -> None:
    before = foa_batch(clips=400)
    direction = check_encoding(before, rotate_foa(before, generator=seeded(0)))
    patterns = set()
    for old, new in zip(before.targets["doa"][:, 0, 0].tolist(), direction.tolist(), strict=True):
        places = [[abs(value) for value in old].index(abs(value)) for value in new]
        patterns.add((*places, *(math.copysign(1, a * old[place]) for a, place in zip(new, places, strict=True))))
    assert len(patterns) == 16
    assert {pattern[:3] for pattern in patterns} == {(0, 1, 2), (1, 0, 2)}


def test_right_angles_without_mirrors_are_four_rotations() -> None:
    before = foa_batch(clips=100)
    direction = check_encoding(before, rotate_foa(before, generator=seeded(0), mirror=False))
    old = before.targets["doa"][:, 0, 0]
    assert torch.equal(direction[:, 2], old[:, 2])
    angle = torch.atan2(direction[:, 1], direction[:, 0]) - torch.atan2(old[:, 1], old[:, 0])
    quarters = (angle / (math.pi / 2)).remainder(4)
    torch.testing.assert_close(quarters.round(), quarters)
    assert set(quarters.round().remainder(4).tolist()) == {0, 1, 2, 3}


def test_any_angle_turns_the_wave_with_its_direction() -> None:
    before = foa_batch(clips=1_000)
    direction = check_encoding(before, rotate_foa(before, generator=seeded(0), angles="any", mirror=False))
    old = before.targets["doa"][:, 0, 0]
    assert torch.equal(direction[:, 2], old[:, 2])
    angle = (torch.atan2(direction[:, 1], direction[:, 0]) - torch.atan2(old[:, 1], old[:, 0])).remainder(2 * math.pi)
    assert torch.histc(angle, 4, 0, 2 * math.pi).min() > 200
    mirrored = check_encoding(before, rotate_foa(before, generator=seeded(0), angles="any"))
    assert 400 < (mirrored[:, 2] == -old[:, 2]).sum() < 600


def test_what_cannot_be_turned_or_drawn_is_refused() -> None:
    batch = foa_batch(clips=2)
    batch.weight["doa"] = torch.ones(2, 10, 1, 3)
    with pytest.raises(UsageError, match="weight of doa"):
        rotate_foa(batch, generator=seeded(0))
    mono = Batch(**{**vars(batch), "waveform": batch.waveform[:, 0]})
    with pytest.raises(UsageError, match="W, Y, Z, X"):
        rotate_foa(mono, generator=seeded(0))
    with pytest.raises(UsageError, match="angles 'left'"):
        rotate_foa(batch, generator=seeded(0), angles="left")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_db -1"):
        gain(batch, generator=seeded(0), max_db=-1)
    with pytest.raises(UsageError, match=r"probability 1\.1"):
        polarity(batch, generator=seeded(0), probability=1.1)
