"""The shipped demo teacher on soundscapes it has never seen, and the script that trains it."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from pipeline import SOUND_CLASSES, frame_labels, generate_soundscape, soundscape_seed
from teachers import load_teacher, train_demo_teacher
from teachers._choice import DEMO_CHECKPOINT
from teachers.families._beats import Beats, beats_features

UNSEEN_SEED = 414_243
FLOOR = 0.88
"""Micro-averaged frame AP. Guessing gets the share of active cells, about 0.04."""


@pytest.fixture(scope="module")
def unseen() -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    """20 clips, short ones padded, and their frame labels [20, classes, 250]."""
    waveforms = torch.zeros(20, 160_000)
    labels = np.zeros((20, len(SOUND_CLASSES), 250), dtype=bool)
    for clip in range(20):
        soundscape = generate_soundscape(soundscape_seed(UNSEEN_SEED, "eval", clip))
        waveforms[clip, : len(soundscape.waveform)] = torch.from_numpy(soundscape.waveform)
        labels[clip] = frame_labels(soundscape.events, train_demo_teacher.VOCABULARY)
    return waveforms, labels


def micro_average_precision(logits: torch.Tensor, labels: npt.NDArray[np.bool_]) -> float:
    return train_demo_teacher.average_precision(logits.numpy().ravel(), labels.ravel())


def test_shipped_file_is_small_and_has_the_generators_classes() -> None:
    teacher = load_teacher("beats", checkpoint=DEMO_CHECKPOINT)
    assert DEMO_CHECKPOINT.stat().st_size <= 5_000_000
    assert teacher.vocabulary.mids == tuple(sound.mid for sound in SOUND_CLASSES)
    assert teacher.vocabulary.names == tuple(sound.name for sound in SOUND_CLASSES)


def test_it_hears_what_is_there(unseen: tuple[torch.Tensor, npt.NDArray[np.bool_]]) -> None:
    waveforms, labels = unseen
    teacher = load_teacher("beats", checkpoint=DEMO_CHECKPOINT)
    assert micro_average_precision(teacher.frame_logits(waveforms), labels) > FLOOR


def test_an_untrained_model_stays_far_below_the_floor(unseen: tuple[torch.Tensor, npt.NDArray[np.bool_]]) -> None:
    waveforms, labels = unseen
    torch.manual_seed(0)
    with torch.inference_mode():
        logits = Beats(train_demo_teacher.CONFIG).eval().frame_logits(beats_features(waveforms), 250)
    assert micro_average_precision(logits, labels) < FLOOR / 4


def test_average_precision_is_the_mean_precision_at_every_positive() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        active = rng.random(60) < 0.3
        probabilities = np.round(rng.random(60), 1)
        at_positives = [
            np.count_nonzero(active & (probabilities >= threshold)) / np.count_nonzero(probabilities >= threshold)
            for threshold in probabilities[active]
        ]
        got = train_demo_teacher.average_precision(probabilities, active)
        assert got == pytest.approx(np.mean(at_positives)) if active.any() else math.isnan(got)
    assert math.isnan(train_demo_teacher.average_precision(np.ones(3), np.zeros(3, dtype=bool)))


def test_a_short_run_learns_and_writes_a_loadable_checkpoint(tmp_path: Path) -> None:
    clips = train_demo_teacher.Clips(1, "teacher", 2, random_gain=True)
    features, labels = (torch.stack(parts) for parts in zip(*(clips[i] for i in range(2)), strict=True))
    torch.manual_seed(0)
    model = Beats(train_demo_teacher.CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for loss_of in (train_demo_teacher.half_clip_loss, train_demo_teacher.whole_clip_loss):
        losses = []
        for _ in range(4):
            loss = loss_of(model, features, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
    path = tmp_path / "small.pt"
    train_demo_teacher.save_checkpoint(path, model)
    teacher = load_teacher("beats", checkpoint=path)
    waveforms = torch.from_numpy(generate_soundscape(soundscape_seed(1, "teacher", 0)).waveform)[None]
    waveforms = nn.functional.pad(waveforms, (0, 160_000 - waveforms.shape[1]))
    with torch.inference_mode():
        expected = model.eval().frame_logits(beats_features(waveforms), 250)
    assert torch.allclose(teacher.frame_logits(waveforms), expected, atol=0.02)
