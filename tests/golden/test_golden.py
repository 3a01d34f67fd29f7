"""Shards that earlier versions wrote are read bit for bit, by everything that reads shards."""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards import AudioReader, Dataset, LabelReader, verify
from tests.golden.make import GOLDEN, pcm, values

FINAL_VERSIONS = sorted(path for path in Path(__file__).parent.iterdir() if path.name.startswith("v"))


@pytest.fixture(params=FINAL_VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_version_verifies(version: Path) -> None:
    for name in GOLDEN:
        assert verify(version / name) == ()


def test_audio_is_what_was_stored(version: Path) -> None:
    for name, golden in GOLDEN.items():
        dataset = Dataset.open(version / name)
        assert dataset.keys == golden.keys
        for split, shards in golden.shards.items():
            for spec, codec in golden.audio:
                sidecars = dataset.audio_shards(split, spec.name)
                assert [side.clips.key for side in sidecars] == list(shards)
                assert {side.codec for side in sidecars} == {codec}
                assert sidecars[-1].rejected.key == (golden.rejected,)
                for side in sidecars:
                    with AudioReader(side) as reader:
                        for row, key in enumerate(side.clips.key):
                            np.testing.assert_array_equal(reader.read(row), pcm(key, spec))


def test_labels_decode_to_the_same_bits_as_then(version: Path) -> None:
    expected = json.loads((version / "expected.json").read_text())
    found = {}
    codings = set()
    for dataset_name, golden in GOLDEN.items():
        for split in golden.shards:
            for name, _, target, codec in golden.labels:
                for side in Dataset.open(version / dataset_name).label_shards(split, name):
                    assert (side.target, side.codec) == (target, codec)
                    with LabelReader(side) as reader:
                        for row, key in enumerate(side.clips.key):
                            if side.clips.length[row]:
                                decoded = reader.read(row)
                                digest = hashlib.sha256(decoded.astype("<f4").tobytes()).hexdigest()
                                found[f"{split}/{name}/{key}"] = digest
                                assert_near(decoded, values(key, target), target.kind)
                                coding = reader.read_bytes(row)[12 + 4 * len(target.shape)]
                                codings.add((codec, target.kind, None if codec == "npy" else coding))
    assert found == expected
    # Every way of coding is among them: 0 float16, 1 runs of levels.
    assert codings == {
        ("npy", "logit", None),
        ("master", "logit", 0),
        ("master", "unit_vector", 0),
        ("faithful", "logit", 1),
        ("faithful", "probability", 1),
        ("small", "logit", 1),
        ("small", "logit", 0),
        ("small", "probability", 1),
        ("small", "probability", 0),
    }


def test_a_long_name_has_its_pax_header(version: Path) -> None:
    tar_path = Dataset(version / "path").audio_folder("weak", "mono-16000hz-10000ms") / "000000.tar"
    with tarfile.open(tar_path) as tar:
        assert [len(name) > 100 for name in tar.getnames()] == [True, False]


def assert_near(decoded: np.ndarray, stored: np.ndarray, kind: str) -> None:
    if kind == "logit":
        decoded, stored = (1 / (1 + np.exp(-array)) for array in (decoded, stored))
    assert np.abs(decoded - stored).max() <= 0.0041
