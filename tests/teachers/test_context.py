"""Chunks, windows and recordings of any length against cutting and fading by hand."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import AudioSpec, TeacherError
from teachers import Chunked, Ensemble, Teacher, Windows, _context, label_recording, load_teacher
from tests.teachers.labelling_examples import tiny_beats
from tests.teachers.simple_teachers import CPU, Linear, noise

NO_SOUND = -24.0


@pytest.fixture
def beats(tmp_path: Path) -> Teacher:
    return load_teacher("beats", checkpoint=tiny_beats(tmp_path / "tiny.pt"))


def heard_alone(teacher: Teacher, piece: Tensor, context_ms: int) -> npt.NDArray[np.float64]:
    """One piece, padded to the context, through front end and model: [classes, frames of the context]."""
    padded = torch.zeros(1, 16 * context_ms)
    padded[0, : len(piece)] = piece
    with torch.inference_mode():
        return teacher._frame_logits(teacher.front_end.compute(padded), context_ms // 40)[0].double().numpy()


def chunked_by_hand(teacher: Teacher, waveform: Tensor, context_ms: int, frames: int) -> npt.NDArray[np.float64]:
    pieces = waveform.split(16 * context_ms)
    return np.concatenate([heard_alone(teacher, piece, context_ms) for piece in pieces], axis=1)[:, :frames]


def windows_by_hand(teacher: Teacher, audio: Tensor) -> npt.NDArray[np.float64]:
    """Of a recording: windows of 250 frames every 125, the last at the end; each frame the faded mean of those."""
    frames = math.ceil(len(audio) / 640)
    starts = [0]
    while starts[-1] + 250 < frames:
        starts.append(min(starts[-1] + 125, frames - 250))
    heard = {start: heard_alone(teacher, audio[640 * start : 640 * start + 160_000], 10_000) for start in starts}
    faded = np.zeros((len(teacher.vocabulary), frames))
    for frame in range(frames):
        total = 0.0
        for start, logits in heard.items():
            if start <= frame < start + 250:
                weight = (1 - math.cos(2 * math.pi * (frame - start + 0.5) / 250)) / 2
                faded[:, frame] += weight * logits[:, frame - start]
                total += weight
        faded[:, frame] /= total
    return faded


@pytest.mark.parametrize("context_ms", [5_000, 4_000, 2_000])
def test_chunks_are_consecutive_contexts_heard_alone(beats: Teacher, context_ms: int) -> None:
    chunked = Chunked(beats, context_ms)
    waveforms = noise(2)
    logits = chunked.frame_logits(waveforms)
    for clip, waveform in enumerate(waveforms):
        expected = chunked_by_hand(beats, waveform, context_ms, 250)
        np.testing.assert_allclose(logits[clip].numpy(), expected, atol=1e-4, rtol=0)
    assert chunked.target == beats.target.__class__(
        axes=("class", "time"), kind="logit", vocabulary=beats.vocabulary, context_ms=context_ms, frames=250
    )
    whole = beats.frame_logits(waveforms)
    assert float((logits - whole).abs().max()) > 1e-3, "a context of 10 s would say the same"


@pytest.mark.parametrize("clip_ms", [60_000, 3_000, 12_345])
def test_chunks_of_clips_of_other_lengths(clip_ms: int) -> None:
    teacher = Linear([1.0, -2.0], slope=0.01)
    chunked = Chunked(teacher, 4_000, AudioSpec(clip_ms=clip_ms))
    waveforms = noise(1, samples=16 * clip_ms)
    frames = math.ceil(clip_ms / 40)
    logits = chunked.frame_logits(waveforms)
    assert logits.shape == (1, *chunked.target.shape) == (1, 2, frames)
    expected = chunked_by_hand(teacher, waveforms[0], 4_000, frames)
    np.testing.assert_allclose(logits[0].numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [960_000, 959_999, 321_000, 160_001, 160_000, 100_000, 640, 1])
def test_windows_are_faded_over_the_audio_alone(samples: int) -> None:
    """The slope makes a frame's logit depend on where in its window it was heard."""
    teacher = Linear([1.0, -2.0], slope=0.01)
    windows = Windows(teacher, AudioSpec(clip_ms=60_000))
    waveforms = torch.zeros(1, 960_000)
    waveforms[0, :samples] = noise(1, samples=samples)
    logits = windows.frame_logits(waveforms, [samples])
    frames = math.ceil(samples / 640)
    expected = windows_by_hand(teacher, waveforms[0, :samples])
    np.testing.assert_allclose(logits[0, :, :frames].numpy(), expected, atol=1e-5, rtol=0)
    assert torch.equal(logits[0, :, frames:], torch.full((2, 1500 - frames), NO_SOUND))
    assert torch.equal(label_recording(teacher, waveforms[0, :samples]), logits[0, :, :frames])


def test_windows_of_a_model(beats: Teacher) -> None:
    recording = noise(1, samples=400_000)[0]
    expected = windows_by_hand(beats, recording)
    np.testing.assert_allclose(label_recording(beats, recording).numpy(), expected, atol=1e-4, rtol=0)


def test_a_recording_as_long_as_the_context_is_a_clip(beats: Teacher) -> None:
    clip = noise(1)
    assert torch.equal(label_recording(beats, clip[0]), beats.frame_logits(clip)[0])
    short = torch.zeros(1, 160_000)
    short[0, :48_000] = clip[0, :48_000]
    assert torch.equal(label_recording(beats, clip[0, :48_000]), beats.frame_logits(short)[0, :, :75])


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 4_000), context=st.sampled_from([250, 125, 100, 50, 2, 1, 3]))
def test_weights_of_every_frame_sum_to_one(frames: int, context: int) -> None:
    for plan in (_context.window_pieces, _context.chunk_pieces):
        total = np.zeros(frames)
        layers: dict[int, int] = {}
        for start, layer, weight in plan(frames, context):
            assert 0 <= start < frames
            assert weight.dtype == np.float32
            total[start : start + len(weight)] += weight
            assert weight.min() > 0
            assert start >= layers.get(layer, 0), "pieces of one layer have a frame in common"
            layers[layer] = start + context
        np.testing.assert_allclose(total, 1, atol=1e-6, rtol=0)
    starts = [piece.start for piece in _context.window_pieces(frames, context)]
    assert all(0 < later - earlier <= math.ceil(context / 2) for earlier, later in pairwise(starts))
    assert starts[-1] == max(0, frames - context)


@pytest.mark.parametrize("make", [lambda t, s: Chunked(t, 4_000, s), Windows])
def test_pieces_without_audio_are_not_heard_and_neighbours_change_nothing(make: object) -> None:
    teacher = Linear([1.0, -2.0], slope=0.01)
    long = make(teacher, AudioSpec(clip_ms=60_000))  # type: ignore[operator]
    waveforms = torch.zeros(4, 960_000)
    lengths = [960_000, 0, 200_000, 640]
    for clip, length in enumerate(lengths):
        waveforms[clip, :length] = noise(1, samples=max(1, length), seed=clip)[0, :length]
    together = long.frame_logits(waveforms, lengths)
    chunks, windows = 15 + 0 + 4 + 1, 11 + 0 + 2 + 1
    assert teacher.heard == (chunks if isinstance(long, Chunked) else windows)
    for clip, length in enumerate(lengths):
        assert torch.equal(long.frame_logits(waveforms[clip : clip + 1], [length])[0], together[clip])
    assert torch.equal(together[1], torch.full((2, 1500), NO_SOUND))
    # whoever does not say where the audio ends has all of it heard
    assert not (long.frame_logits(waveforms) == NO_SOUND).any()


@pytest.mark.parametrize("at_once", [1, 250, 750, 1_800, 1_000_000])
def test_how_many_pieces_go_together_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Linear([1.0, -2.0], slope=0.01)
    recording = noise(1, samples=640 * 2000)[0]
    expected = label_recording(teacher, recording)
    monkeypatch.setattr(_context, "AT_ONCE", at_once)
    assert torch.equal(label_recording(teacher, recording), expected)


def test_ragged_clips_heard_with_places_left_over_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever else is heard with a clip; also where windows of an odd length meet."""
    rng = np.random.default_rng(5)
    for clip_ms in (10_000, 1_000):
        teacher = Linear([1.0, -2.0], slope=0.01, spec=AudioSpec(clip_ms=clip_ms))
        windows = Windows(teacher, AudioSpec(clip_ms=4 * clip_ms + 37))
        longest = windows.audio_spec.max_samples
        lengths = [longest, 0, 1, *rng.integers(1, longest, 9).tolist()]
        waveforms = noise(len(lengths), samples=longest)
        for clip, length in enumerate(lengths):
            waveforms[clip, length:] = 0
        alone = [windows.frame_logits(waveforms[clip, None], [length])[0] for clip, length in enumerate(lengths)]
        with monkeypatch.context() as patched:
            patched.setattr(_context, "_size", lambda device, pieces, at_once: at_once)
            for at_once in (3 * windows.teacher.frames, 16_000):
                patched.setattr(_context, "AT_ONCE", at_once)
                assert torch.equal(windows.frame_logits(waveforms, lengths), torch.stack(alone))


def test_an_accelerator_is_always_given_the_same_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Counting(Linear):
        def _heard(self, target: str, waveforms: Tensor, frames: int) -> Tensor:
            sizes.append(tuple(waveforms.shape))
            return super()._heard(target, waveforms, frames)

    teacher = Counting([1.0], slope=0.01)
    recording = noise(1, samples=640 * 10_000)[0]
    expected = label_recording(teacher, recording)
    assert sizes == [(64, 160_000), (15, 160_000)]
    sizes.clear()
    monkeypatch.setattr(_context, "_size", lambda device, pieces, at_once: at_once)
    assert torch.equal(label_recording(teacher, recording), expected)
    assert sizes == [(64, 160_000), (64, 160_000)]
    # a batch of clips gives one size whatever their lengths, and a small batch needs no more than all its pieces
    sizes.clear()
    windows = Windows(teacher, AudioSpec(clip_ms=30_000))
    for lengths in ([480_000, 480_000], [480_000, 1], [200_000, 0]):
        windows.frame_logits(noise(2, samples=480_000), lengths)
    assert sizes == [(10, 160_000)] * 3
    sizes.clear()
    Chunked(teacher, 2_000).frame_logits(noise(80))
    assert sizes == [(320, 32_000), (320, 32_000)]


class Silent(Teacher):
    """On a device whose tensors have shapes and no values: what asks for a value fails."""

    def __init__(self, device: str) -> None:
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=Linear([1.0, 2.0]).vocabulary, provenance={},
            contexts_ms=(10_000, 2_000), device=torch.device(device),
        )  # fmt: skip

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return features.new_zeros(len(features), 2, frames)

    def _heard(self, target: str, waveforms: Tensor, frames: int) -> Tensor:
        return self._frame_logits(waveforms, frames)


class Calls(TorchDispatchMode):
    """Counts what PyTorch is asked for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_no_value_is_read_back_from_the_device() -> None:
    teacher = Silent("meta")
    waveforms = torch.zeros(3, 480_000, device="meta")
    spec = AudioSpec(clip_ms=30_000)
    for pieces in (Chunked(teacher, 2_000, spec), Windows(teacher, spec)):
        assert pieces.frame_logits(waveforms, [480_000, 0, 200_001]).shape == (3, 2, 750)
    with pytest.raises(RuntimeError, match="meta"):
        waveforms.sum().item()


def test_many_pieces_take_no_more_calls_than_few() -> None:
    """A GPU would wait for Python otherwise."""
    chunked = Chunked(Silent("cpu"), 2_000)
    made = []
    for clips in (2, 64):
        with Calls() as calls:
            chunked.frame_logits(torch.zeros(clips, 160_000), [160_000] * (clips - 1) + [100_000])
        made.append(calls.count)
    assert made[0] == made[1] < 80
    windows = Windows(Silent("cpu"), AudioSpec(clip_ms=600_000))
    with Calls() as calls:
        windows.frame_logits(torch.zeros(1, 9_600_000))  # 119 windows, heard in two parts
    assert calls.count < 160


def test_batch_sizes_by_device() -> None:
    assert _context._size(CPU, 5, 64) == 5
    assert _context._size(torch.device("cuda"), 5, 64) == 64


def test_an_ensemble_in_windows_and_windows_in_an_ensemble() -> None:
    members = [Linear([1.0], slope=0.01), Linear([3.0], slope=-0.05)]
    spec = AudioSpec(clip_ms=30_000)
    waveforms = noise(2, samples=480_000)
    outside = Windows(Ensemble(members), spec)
    inside = Ensemble([Windows(member, spec) for member in members])
    torch.testing.assert_close(outside.frame_logits(waveforms), inside.frame_logits(waveforms), atol=1e-5, rtol=0)
    assert outside.leaves == inside.leaves == tuple(members)
    outside.use_precision("bfloat16")
    assert [member.cast_to for member in members] == ["bfloat16", "bfloat16"]
    assert outside.provenance["precision"] == outside.teacher.provenance["precision"] == "bfloat16"


def test_provenance_says_how_the_audio_was_heard() -> None:
    teacher = Linear([1.0])
    assert json.loads(json.dumps(Chunked(teacher, 4_000).provenance)) == {**teacher.provenance, "chunk_ms": 4_000}
    windows = Windows(teacher, AudioSpec(clip_ms=60_000))
    rule = {"window_ms": 10_000, "window_hop_ms": 5_000, "window_fade": "raised_cosine"}
    assert windows.provenance == {**teacher.provenance, **rule}
    assert windows.context_ms == windows.target.context_ms == 10_000
    assert windows.audio_spec == AudioSpec(clip_ms=60_000)
    assert Chunked(Linear([1.0], protocol="clip"), 4_000).protocol == "clip"
    assert windows.target.shape == (1, 1500)


def test_contexts_the_teacher_was_not_made_for_are_refused() -> None:
    with pytest.raises(TeacherError, match=r"contexts of 3000 ms; --context-ms can be 10000, 4000$"):
        Chunked(Linear([1.0], contexts_ms=(10_000, 4_000)), 3_000)
    able, unable = Linear([1.0], name="able"), Linear([1.0], contexts_ms=(10_000,), name="unable")
    with pytest.raises(TeacherError, match=r"^teacher unable was not made for .* 4000 ms; --context-ms can be 10000$"):
        Chunked(Ensemble([able, unable]), 4_000)
    with pytest.raises(
        TeacherError, match=r"^teacher linear was not made for contexts of 30 ms; --context-ms can be 10000$"
    ):
        Chunked(Linear([1.0], contexts_ms=(10_000, 30)), 30)


@pytest.mark.parametrize("make", [lambda t, s: Chunked(t, 4_000, s), Windows])
def test_what_hears_pieces_already_is_not_cut_again(make: object) -> None:
    """Its labels would state the longer context."""
    pieces = Chunked(Linear([1.0]), 4_000)
    for teacher in (pieces, Ensemble([pieces])):
        with pytest.raises(TeacherError, match=r"hears its clips in pieces of 4000 ms already"):
            make(teacher, AudioSpec(clip_ms=60_000))  # type: ignore[operator]


@pytest.mark.parametrize("make", [lambda t, s: Chunked(t, 4_000, s), Windows])
def test_pieces_have_no_clip_logits_and_audio_of_another_rate_is_refused(make: object) -> None:
    teacher = Linear([1.0])
    long = make(teacher, AudioSpec(clip_ms=60_000))  # type: ignore[operator]
    assert not long.has_clip_logits
    with pytest.raises(TeacherError, match="no clip-level head"):
        long.clip_logits(torch.zeros(1, 960_000))
    with pytest.raises(TeacherError, match="hears mono at 16000 Hz, the clips are mono-32000hz-60000ms"):
        make(teacher, AudioSpec(sample_rate=32_000, clip_ms=60_000))  # type: ignore[operator]


@pytest.mark.parametrize("samples", [[1], [1, 2, 3], [0, -1], [0, 960_001]])
def test_wrong_lengths_are_refused(samples: Sequence[int]) -> None:
    with pytest.raises(TeacherError, match=r"got \d lengths from -?\d to \d+ for 2 clips of 960000 samples"):
        Windows(Linear([1.0]), AudioSpec(clip_ms=60_000)).frame_logits(torch.zeros(2, 960_000), samples)


def test_bad_waveforms_are_refused() -> None:
    teacher = Linear([1.0])
    for wrong in (torch.zeros(1, 640), torch.zeros(0), torch.zeros(640, dtype=torch.float64)):
        with pytest.raises(TeacherError, match=r"needs torch.float32 \[samples\]"):
            label_recording(teacher, wrong)
    with pytest.raises(TeacherError, match="NaN or infinite"):
        label_recording(teacher, torch.full((640,), torch.nan))
    windows = Windows(teacher, AudioSpec(clip_ms=60_000))
    with pytest.raises(TeacherError, match=r"needs torch.float32 \[clips, 960000\]"):
        windows.frame_logits(torch.zeros(1, 160_000))
    with pytest.raises(TeacherError, match="NaN or infinite"):
        windows.frame_logits(torch.full((1, 960_000), torch.nan))
