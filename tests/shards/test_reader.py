"""Readers give back what was written, and never what was damaged."""

import os
import resource
import threading
from dataclasses import replace

import numpy as np
import pytest

from pipeline import FormatError, IntegrityError, UsageError
from shards import AudioReader, LabelReader
from tests.shards.dataset_examples import LONG_KEY, SPEC, clip_logits, clip_pcm, write_audio, write_labels

KEYS = ["aa_0", "bb_0", LONG_KEY, "cc_0"]


@pytest.fixture
def pair(tmp_path):
    audio = write_audio(tmp_path / "audio", 0, KEYS)
    return audio, write_labels(tmp_path / "labels", audio, failed=frozenset({"bb_0"}))


def test_any_row_in_any_order(pair):
    audio, labels = pair
    with AudioReader(audio) as clips, LabelReader(labels) as logits:
        for row in (2, 0, 3, 1, 2):
            np.testing.assert_array_equal(clips.read(row), clip_pcm(KEYS[row]))
        for row in (3, 0, 2):
            expected = clip_logits(KEYS[row]).astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(logits.read(row), expected)


def test_a_clip_without_label_has_none(pair):
    with LabelReader(pair[1]) as logits, pytest.raises(UsageError, match="bb_0: has no label"):
        logits.read(1)


def test_every_flipped_byte_of_a_member_is_found(pair):
    audio, labels = pair
    for sidecar, reader, row in ((audio, AudioReader, 3), (labels, LabelReader, 2)):
        whole = sidecar.tar_path.read_bytes()
        start, length = sidecar.clips.offset[row], sidecar.clips.length[row]
        for position in range(start, start + length, 7):
            sidecar.tar_path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
            with reader(sidecar) as damaged:
                with pytest.raises(IntegrityError, match=f"000000.tar: clip {KEYS[row]}: is not what was written"):
                    damaged.read(row)
                damaged.read(0)
        sidecar.tar_path.write_bytes(whole)


def test_a_truncated_tar_costs_the_clips_that_are_gone(pair):
    audio, _ = pair
    whole = audio.tar_path.read_bytes()
    audio.tar_path.write_bytes(whole[: audio.clips.offset[1] + 100])
    with AudioReader(audio) as clips:
        np.testing.assert_array_equal(clips.read(0), clip_pcm(KEYS[0]))
        for row in (1, 2, 3):
            with pytest.raises(IntegrityError, match=f"clip {KEYS[row]}: the tar ends in it"):
                clips.read(row)


def test_a_missing_tar_is_named(pair):
    audio, _ = pair
    audio.tar_path.unlink()
    with pytest.raises(IntegrityError, match=r"000000\.tar: cannot be read"):
        AudioReader(audio)


def test_what_the_machine_refuses_is_not_the_clips_fault(pair):
    """A loader replaces clips for an IntegrityError, labelling gives them up: neither may happen for want of a file."""
    audio, _ = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            AudioReader(audio)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with AudioReader(audio) as clips:
        os.dup2(write_only := os.open(audio.tar_path, os.O_WRONLY), clips._file.fileno())
        os.close(write_only)
        with pytest.raises(OSError, match=r"000000\.tar"):  # EBADF: the system alone names no file
            clips.read(0)


def test_whole_bytes_that_are_not_the_stated_clip_are_refused(pair, tmp_path):
    """Checksum and layout are right, the stated length in samples is not."""
    audio, _ = pair
    samples = (audio.clips.samples[0] - 1, *audio.clips.samples[1:])
    with AudioReader(replace(audio, clips=replace(audio.clips, samples=samples))) as clips:
        with pytest.raises(FormatError, match="clip aa_0"):
            clips.read(0)
        clips.read(1)


def test_threads_share_a_reader(tmp_path):
    keys = [f"k{i}_0" for i in range(12)]
    audio = write_audio(tmp_path, 0, keys)
    wrong = []

    def read(seed: int) -> None:
        for row in np.random.default_rng(seed).integers(0, len(keys), 30):
            if not np.array_equal(clips.read(int(row)), clip_pcm(keys[row], SPEC)):
                wrong.append(row)

    with AudioReader(audio) as clips:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
