"""Roll and crop against numpy, clip by clip, with the shift read back from a waveform that counts its samples."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline import UsageError
from shards import Batch, crop_to, roll_time

RATE = 1_000
CLIP_MS = 4_000
GRIDS = {"frames": 40, "fine": 10, "chunks": 1_000, "tracks": 40}
AXES = {"tracks": ("time", "track")}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counting_batch(
    clips: int = 40, *, channels: int = 0, names: tuple[str, ...] = tuple(GRIDS), seed: int = 0
) -> Batch:
    """Clips of 4 s at 1 kHz whose samples are their numbers; short ones, with weights of every shape."""
    generator = seeded(seed)
    valid = torch.randint(1, 101, (clips,), generator=generator)
    valid[::2] = 100
    targets, weight = {"weak": torch.rand(clips, 3)}, {"weak": torch.ones(clips, 3)}
    for name in names:
        hop = GRIDS[name]
        shape = (clips, CLIP_MS // hop, 2) if name == "tracks" else (clips, 3, CLIP_MS // hop)
        targets[name] = torch.rand(shape, generator=generator)
        present = (torch.arange(CLIP_MS // hop) * hop < valid[:, None] * 40).float()
        weight[name] = {
            "frames": present[:, None],
            "fine": present[:, None] * torch.ones(1, 3, 1),
            "chunks": torch.ones(clips, 3),
            "tracks": present,
        }[name]
    waveform = torch.arange(CLIP_MS * RATE // 1000).double().expand(clips, -1)
    if channels:
        waveform = waveform[:, None] + 10_000 * torch.arange(channels)[:, None]
    return Batch(
        waveform=waveform,
        targets=targets,
        weight=weight,
        valid_frames=valid,
        source=["s"] * clips,
        key=[str(clip) for clip in range(clips)],
        sample_rate=RATE,
        axes=AXES,
        hop_ms={name: Fraction(GRIDS[name]) for name in names},
    )


def time_axis(name: str) -> int:
    return 0 if name == "tracks" else 1


def same(values: torch.Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(values.numpy(), expected)


@pytest.mark.parametrize("channels", [0, 4])
@pytest.mark.parametrize("names", [("frames", "fine", "tracks"), tuple(GRIDS), ()])
def test_roll_is_numpys_by_whole_frames_of_every_target(names: tuple[str, ...], channels: int) -> None:
    before = counting_batch(channels=channels, names=names)
    after = roll_time(before, generator=seeded(1), sigma_s=1.0)
    step = 1_000 if "chunks" in names else 40
    shifts = set()
    for clip in range(len(before)):
        wave = before.waveform[clip].numpy()
        shift_ms = -round(after.waveform[clip].flatten()[0].item()) % CLIP_MS
        shifts.add(shift_ms)
        assert shift_ms % step == 0
        assert same(after.waveform[clip], np.roll(wave, shift_ms, axis=-1))
        for name in names:
            axis, frames = time_axis(name), shift_ms // GRIDS[name]
            assert same(after.targets[name][clip], np.roll(before.targets[name][clip], frames, axis))
            rolled = before.weight[name][clip].numpy()
            rolled = rolled if name == "chunks" else np.roll(rolled, frames, axis)
            assert same(after.weight[name][clip], rolled)
        on_audio = np.roll(np.arange(100) < before.valid_frames[clip].item(), shift_ms // 40)
        assert after.valid_frames[clip] == np.flatnonzero(on_audio)[-1] + 1
    assert len(shifts) == CLIP_MS // step if step == 1_000 else len(shifts) > 20
    assert after.targets["weak"] is before.targets["weak"]


def test_roll_has_the_spread_asked_for() -> None:
    before = counting_batch(2_000, names=("frames",))
    for sigma_s in (0.0, 0.1, 0.4):
        shift_ms = -roll_time(before, generator=seeded(2), sigma_s=sigma_s).waveform[:, 0]
        shift_ms = torch.where(shift_ms < -CLIP_MS / 2, shift_ms + CLIP_MS, shift_ms)
        assert shift_ms.std().item() == pytest.approx(1000 * sigma_s, rel=0.06)
        assert abs(shift_ms.mean().item()) <= 40 * sigma_s * 1.5


@pytest.mark.parametrize("channels", [0, 4])
@pytest.mark.parametrize(("names", "clip_ms"), [(tuple(GRIDS), 2_000), (("frames", "fine", "tracks"), 1_200), ((), 40)])
def test_crop_is_a_slice_of_everything(names: tuple[str, ...], clip_ms: int, channels: int) -> None:
    before = counting_batch(200, channels=channels, names=names)
    after = crop_to(before, clip_ms=clip_ms, generator=seeded(1))
    step = 1_000 if "chunks" in names else 40
    drawn = {}
    for clip in range(len(before)):
        start = round(after.waveform[clip].flatten()[0].item())
        assert start % step == 0
        assert same(after.waveform[clip], before.waveform[clip].numpy()[..., start : start + clip_ms])
        for name in names:
            hop = GRIDS[name]
            part = np.arange(start // hop, (start + clip_ms) // hop)
            axis = time_axis(name)
            assert same(after.targets[name][clip], before.targets[name][clip].numpy().take(part, axis))
            weight = before.weight[name][clip].numpy()
            assert same(after.weight[name][clip], weight if name == "chunks" else weight.take(part, axis))
        audio_ms = 40 * before.valid_frames[clip].item()
        # Never more of the padding than the first crop that holds the clip's end has, and always some audio.
        assert start == 0 or start + clip_ms < audio_ms + step
        drawn.setdefault(audio_ms, set()).add(start)
        assert after.valid_frames[clip] == min(max(audio_ms - start, 0), clip_ms) // 40 > 0
        complete = start == 0 and audio_ms <= clip_ms
        assert same(after.weight["weak"][clip], np.full(3, float(complete)))
    of_full_clips = set(range(0, CLIP_MS - clip_ms + 1, step))
    assert drawn[CLIP_MS] == of_full_clips if len(of_full_clips) < 10 else len(drawn[CLIP_MS]) > 30
    kept = crop_to(before, clip_ms=clip_ms, generator=seeded(1), clip_targets="keep")
    assert torch.equal(kept.weight["weak"], before.weight["weak"])
    assert torch.equal(kept.waveform, after.waveform)


def test_starts_are_drawn_evenly() -> None:
    before = counting_batch(4_000, names=("chunks",))
    before.valid_frames.fill_(100)
    starts = crop_to(before, clip_ms=1_000, generator=seeded(0)).waveform[:, 0]
    assert starts.unique().tolist() == [0, 1_000, 2_000, 3_000]
    assert all(900 < (starts == start).sum() < 1_100 for start in starts.unique())


@pytest.mark.parametrize(("audio_ms", "starts"), [(2_400, [0, 1_000, 2_000]), (2_000, [0, 1_000]), (400, [0])])
def test_starts_reach_to_the_crop_that_holds_the_end_of_the_audio(audio_ms: int, starts: list[int]) -> None:
    before = counting_batch(200, names=("chunks",))
    before.valid_frames.fill_(audio_ms // 40)
    assert crop_to(before, clip_ms=1_000, generator=seeded(0)).waveform[:, 0].unique().tolist() == starts


def test_a_crop_of_all_there_is_changes_nothing() -> None:
    before = counting_batch()
    after = crop_to(before, clip_ms=CLIP_MS, generator=seeded(0))
    assert torch.equal(after.waveform, before.waveform)
    assert all(torch.equal(after.targets[name], before.targets[name]) for name in before.targets)
    assert all(torch.equal(after.weight[name], before.weight[name]) for name in before.weight)
    assert torch.equal(after.valid_frames, before.valid_frames)


def batch_of_grid(hop_ms: Fraction, frames: int, rate: int = 16_000, clip_ms: int = 10_000) -> Batch:
    return Batch(
        waveform=torch.rand(2, rate * clip_ms // 1000),
        targets={"t": torch.rand(2, 3, frames)},
        weight={"t": torch.ones(2, 1, frames)},
        valid_frames=torch.full((2,), clip_ms // 40),
        source=["s", "s"],
        key=["a", "b"],
        sample_rate=rate,
        hop_ms={"t": hop_ms},
    )


def test_chunks_of_4_s_are_cut_from_10_s_clips() -> None:
    batch = batch_of_grid(Fraction(4_000), 3)
    for seed in range(6):
        after = crop_to(batch, clip_ms=4_000, generator=seeded(seed))
        assert after.waveform.shape == (2, 64_000)
        for clip in range(2):
            chunk = int(torch.equal(after.waveform[clip], batch.waveform[clip, 64_000:128_000]))
            assert torch.equal(after.waveform[clip], batch.waveform[clip, 64_000 * chunk :][:64_000])
            assert torch.equal(after.targets["t"][clip, :, 0], batch.targets["t"][clip, :, chunk])


def test_frames_of_100_ms_at_24_khz_move_by_200_ms() -> None:
    batch = batch_of_grid(Fraction(100), 50, rate=24_000, clip_ms=5_000)
    after = roll_time(batch, generator=seeded(3))
    for clip in range(2):
        (shift,) = (k for k in range(50) if torch.equal(batch.targets["t"][clip].roll(k, -1), after.targets["t"][clip]))
        assert shift % 2 == 0
        assert torch.equal(after.waveform[clip], batch.waveform[clip].roll(2_400 * shift))


@pytest.mark.parametrize(
    ("hop_ms", "frames", "message"),
    [
        (Fraction(64), 157, "157 frames of 64 ms of t do not make up a clip of 10000 ms"),
        (Fraction(4_000), 3, "3 frames of 4000 ms of t do not make up"),
        (Fraction(10_000, 157), 157, "together every 10000 ms only"),
        (Fraction(10_000), 1, "together every 10000 ms only"),
    ],
)
def test_roll_refuses_grids_that_do_not_divide_the_clip(hop_ms: Fraction, frames: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        roll_time(batch_of_grid(hop_ms, frames), generator=seeded(0))


@pytest.mark.parametrize(
    ("hop_ms", "frames", "clip_ms", "message"),
    [
        (Fraction(40), 250, 4_010, "multiple of 40 ms"),
        (Fraction(64), 157, 4_000, "multiple of 320 ms"),
        (Fraction(40), 250, 10_040, "at most 10000 ms"),
        (Fraction(4_000), 2, 12_000, "at most 8000 ms"),
        (Fraction(40), 250, 0, "got 0 ms"),
    ],
)
def test_crop_refuses_lengths_that_cut_frames(hop_ms: Fraction, frames: int, clip_ms: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        crop_to(batch_of_grid(hop_ms, frames), clip_ms=clip_ms, generator=seeded(0))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="sigma_s -1"):
        roll_time(counting_batch(), generator=seeded(0), sigma_s=-1)
    with pytest.raises(UsageError, match="clip_targets 'halve'"):
        crop_to(counting_batch(), clip_ms=1_000, generator=seeded(0), clip_targets="halve")  # type: ignore[arg-type]
