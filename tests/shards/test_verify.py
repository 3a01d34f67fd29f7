"""verify finds every injected fault, names it, and finds nothing in a whole dataset."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipeline import UsageError, canonical_json, hard_table, write_hard
from shards import AudioShardWriter, Dataset, fingerprint, read_audio_sidecar, read_label_sidecar, verify
from tests.shards.dataset_examples import (
    LONG_KEY,
    SPEC,
    clip_pcm,
    write_audio,
    write_dataset,
    write_labels,
    write_manifest,
)

AUDIO = f"weak/audio/{SPEC.name}"
FRAMES = "weak/labels/frames"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("whole") / "data").root


@pytest.fixture
def root(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "data"))


def found(root: Path, *, quick: bool = False) -> set[tuple[str, str | None, str]]:
    """Problems as (file below root, key, kind)."""
    problems = verify(root, quick=quick)
    for problem in problems:
        assert str(problem).startswith(str(problem.shard))
        assert "\n" not in str(problem)
    triples = [(str(problem.shard.relative_to(root)), problem.key, problem.kind) for problem in problems]
    assert len(set(triples)) == len(triples)
    return set(triples)


def flip(path: Path, position: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


def swap(a: Path, b: Path) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def resign(path: Path, change) -> None:
    """Edit a sidecar and give it the checksum that belongs to it."""
    value = json.loads(path.read_bytes())
    del value["sha256"]
    change(value)
    value["sha256"] = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    path.write_bytes(f"{canonical_json(value)}\n".encode())


def resign_provenance(path: Path, provenance: dict[str, str]) -> None:
    resign(path, lambda value: value.update(provenance=provenance, fingerprint=fingerprint(provenance)))


def test_a_whole_dataset_has_no_problems(whole):
    calls = []
    assert verify(whole, progress=lambda done, total: calls.append((done, total))) == ()
    assert verify(str(whole), quick=True) == ()
    assert calls == [(done, 8) for done in range(1, 9)]


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(UsageError, match="is not a dataset"):
        verify(tmp_path)
    Dataset.create(tmp_path, keys="path")
    assert verify(tmp_path) == ()


def test_without_a_manifest_or_with_leftovers_it_is_still_whole(root):
    (root / AUDIO / "manifest.parquet").unlink()
    for name in (".partial-abc.tar", "report.json", "notes.txt"):
        (root / AUDIO / name).write_bytes(b"x")
    assert verify(root) == ()


def test_packed_shards_miss_their_manifest(root):
    """Without it nothing else would miss a last shard that was lost with it."""
    (root / AUDIO / "manifest.parquet").unlink()
    resign_provenance(root / AUDIO / "000000.json", {"stage": "pack", "manifest_sha256": "0" * 64})
    assert found(root, quick=True) == {(f"{AUDIO}/manifest.parquet", None, "manifest")}


def test_flipped_bits_in_a_tar(root):
    sidecar = read_audio_sidecar(root / AUDIO / "000000.json")
    tar = f"{AUDIO}/000000.tar"
    expected = {
        sidecar.clips.offset[1] + 40: (tar, "bb_30000", "checksum"),
        sidecar.clips.offset[2] - 500: (tar, "cc_0", "member"),  # in the name
        sidecar.clips.offset[3] - 1100: (tar, LONG_KEY, "member"),  # in the PAX record of a long name
        sidecar.clips.offset[0] + sidecar.clips.length[0]: (tar, "bb_30000", "member"),  # in the padding before it
        sidecar.tar_bytes - 1: (tar, None, "tar_hash"),
    }
    for position, problem in expected.items():
        flip(sidecar.tar_path, position)
        assert found(root) == {problem}
        assert found(root, quick=True) == set()
        flip(sidecar.tar_path, position)
    flip(sidecar.tar_path, sidecar.clips.offset[0])
    flip(sidecar.tar_path, sidecar.clips.offset[3])
    assert found(root) == {(tar, "aa_0", "checksum"), (tar, LONG_KEY, "checksum")}


def test_files_that_are_gone_or_cut(root):
    tar, sidecar, labels = root / AUDIO / "000000.tar", root / AUDIO / "000000.json", root / FRAMES / "000001"
    content = tar.read_bytes()
    for size in (0, 700, len(content) - 1, len(content) + 512):
        tar.write_bytes(content[:size].ljust(size, b"\0"))
        assert found(root, quick=True) == found(root) == {(f"{AUDIO}/000000.tar", None, "tar_size")}
    tar.unlink()
    assert found(root, quick=True) == found(root) == {(f"{AUDIO}/000000.tar", None, "tar_missing")}
    tar.mkdir()
    assert found(root, quick=True) == {(f"{AUDIO}/000000.tar", None, "tar_size")}
    tar.rmdir()
    sidecar.unlink()
    orphans = {(f"weak/labels/{name}/000000.json", None, "orphan") for name in ("frames", "other")}
    assert found(root, quick=True) == {(f"{AUDIO}/000000.json", None, "incomplete")} | orphans
    shutil.rmtree(root / "weak" / "labels" / "other")
    labels.with_suffix(".json").unlink()
    assert (f"{FRAMES}/000001.json", None, "incomplete") in found(root, quick=True)
    labels.with_suffix(".tar").unlink()
    assert (f"{FRAMES}/000001.json", None, "incomplete") in found(root, quick=True)


def test_without_a_manifest_gaps_and_abandoned_tars_are_incomplete(root):
    (root / AUDIO / "manifest.parquet").unlink()
    shutil.rmtree(root / "weak" / "labels")
    for suffix in (".json", ".tar"):
        (root / AUDIO / f"000000{suffix}").unlink()
    assert found(root, quick=True) == {(f"{AUDIO}/000000.json", None, "incomplete")}
    write_audio(root / AUDIO, 0, ["aa_0", "bb_30000", "cc_0", LONG_KEY])
    (root / AUDIO / "000001.json").unlink()
    assert found(root, quick=True) == {(f"{AUDIO}/000001.json", None, "incomplete")}


def test_a_label_set_without_shards_is_incomplete(root):
    shutil.rmtree(root / FRAMES)
    (root / FRAMES).mkdir()
    assert found(root, quick=True) == {(f"{FRAMES}/00000{shard}.json", None, "incomplete") for shard in (0, 1)}


def test_edited_sidecars(root):
    path = root / AUDIO / "000001.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"vorbis"', b'"mp3"'))
    assert found(root, quick=True) == {(f"{AUDIO}/000001.json", None, "sidecar")}
    path.write_bytes(content.replace(b'"version":0', b'"version":1'))
    assert found(root, quick=True) == {(f"{AUDIO}/000001.json", None, "sidecar")}
    path.write_bytes(content)

    def set_first(column, value):
        return lambda sidecar: sidecar["clips"][column].__setitem__(0, value)

    tar = f"{AUDIO}/000001.tar"
    stale = {(f"weak/labels/{name}/000001.json", "dd_0", "stale") for name in ("frames", "other")}
    for change, problems in (
        (set_first("crc32c", 1), {(tar, "dd_0", "checksum")}),
        (set_first("identity", "0" * 32), {(tar, "dd_0", "audio"), *stale}),
        (set_first("samples", 400), {(tar, "dd_0", "audio"), *stale}),
        (lambda sidecar: sidecar["tar"].__setitem__("sha256", "0" * 64), {(tar, None, "tar_hash")}),
    ):
        resign(path, change)
        assert found(root) == problems
        path.write_bytes(content)


def test_swapped_tars_and_swapped_shards(root):
    for folder in (AUDIO, FRAMES):
        first, second = root / folder / "000000", root / folder / "000001"
        swap(first.with_suffix(".tar"), second.with_suffix(".tar"))
        assert {kind for _, _, kind in found(root, quick=True)} == {"tar_size"}
        swap(first.with_suffix(".json"), second.with_suffix(".json"))
        assert found(root, quick=True) == {(f"{folder}/00000{shard}.json", None, "sidecar") for shard in (0, 1)}
        swap(first.with_suffix(".tar"), second.with_suffix(".tar"))
        swap(first.with_suffix(".json"), second.with_suffix(".json"))
    frames, other = root / FRAMES / "000001", root / "weak/labels/other/000001"
    for suffix in (".tar", ".json"):
        swap(frames.with_suffix(suffix), other.with_suffix(suffix))
    assert found(root) == {(f"weak/labels/{name}/000001.json", None, "mixed") for name in ("frames", "other")}


def test_swapped_members_of_equal_size(root):
    """Labels all have the same size, so two of them can change places without any size or offset changing."""
    sidecar = read_label_sidecar(root / FRAMES / "000000.json")
    content = bytearray(sidecar.tar_path.read_bytes())
    (a, b), length = sidecar.clips.offset[1:3], sidecar.clips.length[1]
    content[a : a + length], content[b : b + length] = content[b : b + length], content[a : a + length]
    sidecar.tar_path.write_bytes(content)
    tar = f"{FRAMES}/000000.tar"
    assert found(root) == {(tar, "bb_30000", "checksum"), (tar, "cc_0", "checksum")}


def test_labels_of_other_audio(root):
    """The audio shard was packed again: one clip with other samples, then without it, then in another order."""
    keys = ["dd_0", "ee_0", "ff_0"]
    labels = [f"weak/labels/{name}/000001.json" for name in ("frames", "other")]
    with AudioShardWriter(root / AUDIO, 1, spec=SPEC, provenance={}) as writer:
        for key in keys:
            writer.add(key, clip_pcm(key) + np.int16(key == "ee_0"), origin="wav")
        writer.reject("rr_0", "damaged", "")
        writer.commit()
    assert found(root) == {(path, "ee_0", "stale") for path in labels}
    write_audio(root / AUDIO, 1, ["dd_0", "ff_0"], rejected=["ee_0", "rr_0"])
    assert found(root) == {(path, "ee_0", "order") for path in labels}
    write_audio(root / AUDIO, 1, ["ee_0", "dd_0", "ff_0"], rejected=["rr_0"])
    assert found(root) == {(path, "dd_0", "order") for path in labels}


def test_labels_without_audio(root):
    shutil.rmtree(root / "strong" / "audio")
    assert found(root) == {("strong/labels/frames/000000.json", None, "orphan")}


def test_unreadable_audio_sidecar_is_reported_once(root):
    flip(root / AUDIO / "000001.json", 100)
    assert found(root) == {(f"{AUDIO}/000001.json", None, "sidecar")}


def test_a_label_that_is_not_finite(root):
    """A writer refuses it, so it is put there with a checksum that fits."""
    sidecar = read_label_sidecar(root / FRAMES / "000000.json")
    content = bytearray(sidecar.tar_path.read_bytes())
    end = sidecar.clips.offset[0] + sidecar.clips.length[0]
    content[end - 2 : end] = np.array([np.nan], "<f2").tobytes()
    sidecar.tar_path.write_bytes(content)
    crc = google_crc32c.value(bytes(content[sidecar.clips.offset[0] : end]))

    def change(value):
        value["clips"]["crc32c"][0] = crc
        value["tar"]["sha256"] = hashlib.sha256(content).hexdigest()

    resign(sidecar.path, change)
    assert found(root) == {(f"{FRAMES}/000000.tar", "aa_0", "label")}


def test_accounting_by_the_manifest(root):
    manifest = root / AUDIO / "manifest.parquet"
    rows = [(key, 0) for key in ("aa_0", "bb_30000", "cc_0", LONG_KEY)]
    rows += [(key, 1) for key in ("dd_0", "ee_0", "ff_0", "rr_0")]
    write_manifest(manifest, [*rows, ("new_0", 2)])
    assert found(root, quick=True) == {(f"{AUDIO}/000002.json", None, "incomplete")}
    write_manifest(manifest, [*rows, ("new_0", 1)])
    assert found(root, quick=True) == {(f"{AUDIO}/000001.json", "new_0", "manifest")}
    write_manifest(manifest, rows[1:])
    assert found(root, quick=True) == {(f"{AUDIO}/000000.json", "aa_0", "manifest")}
    write_manifest(manifest, [*rows[:-1], ("rr_0", 0)])
    assert found(root, quick=True) == {(f"{AUDIO}/00000{shard}.json", "rr_0", "manifest") for shard in (0, 1)}
    write_manifest(manifest, [*rows, rows[0]])
    assert found(root, quick=True) == {(f"{AUDIO}/manifest.parquet", None, "manifest")}
    write_manifest(manifest, rows)
    content = manifest.read_bytes()
    page = content.index(b"\x28\xb5\x2f\xfd") + 12  # a byte of the first zstd frame
    flipped = content[:page] + bytes([content[page] ^ 16]) + content[page + 1 :]
    for damaged in (b"", b"PAR1", content[:-20], content.replace(b"shard", b"sh\xe1rd"), flipped):
        assert damaged != content
        manifest.write_bytes(damaged)
        assert found(root, quick=True) == {(f"{AUDIO}/manifest.parquet", None, "manifest")}


def test_hard_labels(root):
    path = root / "weak" / "hard.parquet"
    write_hard(path, hard_table(["aa_0", "bb_30000", LONG_KEY, "dd_0", "ee_0", "ff_0"]))
    assert found(root, quick=True) == {(f"{AUDIO}/000000.json", "cc_0", "no_hard")}
    path.write_bytes(b"PAR1")
    assert found(root, quick=True) == {("weak/hard.parquet", None, "hard")}
    path.unlink()
    assert found(root, quick=True) == {("weak/hard.parquet", None, "hard")}


def test_a_clip_stored_twice(root):
    write_audio(root / AUDIO, 2, ["aa_0"])
    write_labels(root / FRAMES, read_audio_sidecar(root / AUDIO / "000002.json"))
    (root / AUDIO / "manifest.parquet").unlink()
    shutil.rmtree(root / "weak" / "labels" / "other")
    assert found(root) == {(f"{AUDIO}/00000{shard}.json", "aa_0", "duplicate") for shard in (0, 2)}


def test_a_clip_in_two_splits(root):
    folder = root / "strong" / "audio" / SPEC.name
    write_audio(folder, 1, ["dd_0"])
    write_labels(root / "strong/labels/frames", read_audio_sidecar(folder / "000001.json"))
    write_manifest(folder / "manifest.parquet", [("gg_0", 0), ("hh_0", 0), ("dd_0", 1)])
    write_hard(root / "strong" / "hard.parquet", hard_table(["gg_0", "hh_0", "dd_0"]))
    (problem,) = found(root)
    assert problem[1:] == ("dd_0", "duplicate")


def test_audio_in_the_folder_of_another_spec(root):
    shutil.rmtree(root / "strong" / "labels")
    (root / "strong" / "audio" / SPEC.name).rename(root / "strong" / "audio" / "mono-16000hz-10000ms")
    assert found(root) == {("strong/audio/mono-16000hz-10000ms/000000.json", None, "sidecar")}


def test_dataset_description(root):
    flip(root / "dataset.json", 20)
    assert found(root, quick=True) == {("dataset.json", None, "dataset")}
    (root / "dataset.json").unlink()
    assert found(root, quick=True) == {("dataset.json", None, "dataset")}


def inject(rng: random.Random, root: Path) -> str:
    """One random fault; returns what it was."""
    tars = sorted(root.rglob("*.tar"))
    sidecars = [path.with_suffix(".json") for path in tars]
    path = rng.choice([*tars, *tars, *sidecars])
    content = path.read_bytes()
    kind = rng.choice(["flip"] * 6 + ["cut", "zeros", "grow", "delete", "swap", "exchange"])
    if kind == "flip":
        flip(path, rng.randrange(len(content)), 1 << rng.randrange(8))
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "zeros":
        # Over something that is not zero already.
        start = rng.choice(
            [position for position in range(0, len(content), 64) if any(content[position : position + 64])]
        )
        end = min(start + rng.randrange(64, 4096), len(content))
        path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    elif kind == "grow":
        path.write_bytes(content + rng.randbytes(rng.randrange(1, 2000)))
    elif kind == "delete":
        path.unlink()
    else:
        other = rng.choice(
            [other for other in path.parent.iterdir() if other.suffix == path.suffix and other != path] or tars
        )
        if other.read_bytes() == content:
            return inject(rng, root)
        swap(path, other)
        if kind == "exchange":
            suffix = ".json" if path.suffix == ".tar" else ".tar"
            swap(path.with_suffix(suffix), other.with_suffix(suffix))
    return f"{kind} {path.relative_to(root)}"


@pytest.mark.campaign
def test_every_random_fault_is_found(root, tmp_path, campaign):
    clean = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for seed in range(campaign or 80):
        fault = inject(random.Random(seed), root)
        assert verify(root), f"seed {seed}: {fault}"
        for path, content in clean.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
    assert verify(root) == ()
