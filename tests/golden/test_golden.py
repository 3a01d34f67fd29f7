"""Shards that earlier versions wrote are read bit for bit, by everything that reads shards."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from shards import AudioReader, Dataset, LabelReader, verify
from tests.golden.make import AUDIO, KEYS, LABELS, pcm, values

FINAL_VERSIONS = sorted(path for path in Path(__file__).parent.iterdir() if path.name.startswith("v"))


@pytest.fixture(params=FINAL_VERSIONS, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest) -> Dataset:
    return Dataset.open(request.param)


def test_every_version_verifies(golden: Dataset) -> None:
    assert verify(golden.root) == ()


def test_audio_is_what_was_stored(golden: Dataset) -> None:
    for split, shards in KEYS.items():
        for spec, codec in AUDIO:
            sidecars = golden.audio_shards(split, spec.name)
            assert [side.clips.key for side in sidecars] == list(shards)
            assert {side.codec for side in sidecars} == {codec}
            for side in sidecars:
                with AudioReader(side) as reader:
                    for row, key in enumerate(side.clips.key):
                        np.testing.assert_array_equal(reader.read(row), pcm(key, spec))


def test_labels_decode_to_the_same_bits_as_then(golden: Dataset) -> None:
    expected = json.loads((golden.root / "expected.json").read_text())
    found = {}
    for split in KEYS:
        for name, _, target, codec in LABELS:
            for side in golden.label_shards(split, name):
                assert (side.target, side.codec) == (target, codec)
                with LabelReader(side) as reader:
                    for row, key in enumerate(side.clips.key):
                        if side.clips.length[row]:
                            decoded = reader.read(row)
                            found[f"{split}/{name}/{key}"] = hashlib.sha256(decoded.astype("<f4").tobytes()).hexdigest()
                            _check_near(decoded, values(key, target), target.kind)
    assert found == expected


def _check_near(decoded: np.ndarray, stored: np.ndarray, kind: str) -> None:
    if kind == "logit":
        decoded, stored = (1 / (1 + np.exp(-array)) for array in (decoded, stored))
    assert np.abs(decoded - stored).max() <= 0.0041
