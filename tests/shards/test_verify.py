"""verify finds every injected fault, names it, and finds nothing in a whole dataset."""

import hashlib
import importlib
import json
import os
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipeline import ACOUSTIC_BYTES, AudioSpec, UsageError, canonical_json, hard_table, write_hard
from shards import (
    AudioReader,
    AudioShardWriter,
    Dataset,
    LabelShardWriter,
    VerifyProgress,
    check_shard,
    fingerprint,
    open_index,
    read_audio_sidecar,
    read_label_sidecar,
    survey,
    verify,
)
from shards.checks._verify_problem import first_of
from tests.shards.dataset_examples import (
    LONG_KEY,
    SPEC,
    TARGET,
    clip_logits,
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
    calls: list[VerifyProgress] = []
    assert verify(whole, progress=calls.append) == ()
    assert verify(str(whole), quick=True) == ()
    assert verify(whole, decode=False, threads=1) == ()
    assert [(made.step, made.done, made.total) for made in calls] == [
        (step, done, 8) for step in ("sidecars", "shards") for done in range(1, 9)
    ]
    assert calls[7].clips == calls[15].clips == 25
    assert calls[15].tar_bytes == sum(path.stat().st_size for path in whole.rglob("*.tar"))


def test_a_full_pass_is_the_quick_one_and_every_shard_alone(root):
    """What a job does that checks shards on many machines; by name and path only, as it is sent there."""
    flip(root / AUDIO / "000000.tar", 600)
    flip(root / FRAMES / "000001.tar", 600)
    flip(root / FRAMES / "000000.json", 600)
    (root / AUDIO / "000001.tar").unlink()
    found = survey(root)
    assert {(shard.kind, str(shard.path.relative_to(root))) for shard in found.shards} == {
        ("audio", f"{AUDIO}/000000.json"),
        ("audio", f"strong/audio/{SPEC.name}/000000.json"),
        ("labels", f"{FRAMES}/000001.json"),
        *(("labels", f"weak/labels/other/00000{shard}.json") for shard in (0, 1)),
        ("labels", "strong/labels/frames/000000.json"),
    }
    check = getattr(importlib.import_module(check_shard.__module__), check_shard.__qualname__)
    alone = [problem for shard in found.shards for problem in check(str(shard.path), shard.kind)]
    assert (*found.problems, *alone) == verify(root) == verify(root, threads=1)
    assert len(alone) == 2
    assert found.clips == sum(shard.clips for shard in found.shards) + 3


def test_what_progress_raises_stops_the_pass(whole):
    calls = []

    def stop(made: VerifyProgress) -> None:
        calls.append(made)
        if made.step == "shards":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(whole, progress=stop, threads=2)
    assert len(calls) == 9


def test_threads_have_to_be_some(whole):
    with pytest.raises(UsageError, match="threads are 0"):
        verify(whole, threads=0)


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
    sidecar.unlink()
    gone = (f"{AUDIO}/000000.json", None, "incomplete")
    assert found(root, quick=True) == {gone}
    labels.with_suffix(".json").unlink()
    assert found(root, quick=True) == {gone, (f"{FRAMES}/000001.json", None, "incomplete")}
    labels.with_suffix(".tar").unlink()
    assert found(root, quick=True) == {gone, (f"{FRAMES}/000001.json", "dd_0", "incomplete")}


def not_files(path: Path, elsewhere: Path):
    """Puts what is no file of its own in the place of one, one after another."""
    content = path.read_bytes()
    elsewhere.write_bytes(content)
    for target in (elsewhere, path.parent, path.with_name("nowhere"), Path("/dev/zero")):
        path.unlink()
        path.symlink_to(target)
        yield
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()
    os.mkfifo(path)
    yield
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{AUDIO}/000000.tar", "tar_missing"),
        (f"{AUDIO}/000001.json", "sidecar"),
        (f"{AUDIO}/manifest.parquet", "manifest"),
        (f"{FRAMES}/000001.tar", "tar_missing"),
        (f"{FRAMES}/000000.json", "sidecar"),
        ("weak/hard.parquet", "hard"),
        ("dataset.json", "dataset"),
    ],
)
def test_links_folders_and_pipes_are_no_files(root, tmp_path, name, kind):
    """A link may lead out of the dataset, or to what never ends; a pipe would be waited for."""
    for _ in not_files(root / name, tmp_path / "elsewhere"):
        assert found(root) == found(root, quick=True) == {(name, None, kind)}
    assert found(root) == set()


def test_the_index(root, tmp_path):
    """A damaged one is a problem; one that is missing, or older than a sidecar, is made again when it is needed."""
    for folder, kind in ((AUDIO, "audio"), (FRAMES, "labels")):
        index = root / folder / "index.arrow"
        open_index(root / folder, kind)
        assert found(root) == set()
        for position in (8, 700, index.stat().st_size - 1):
            flip(index, position)
            assert found(root, quick=True) == {(f"{folder}/index.arrow", None, "index")}
            flip(index, position)
        for _ in not_files(index, tmp_path / "elsewhere"):
            assert found(root) == {(f"{folder}/index.arrow", None, "index")}


def test_a_table_too_big_for_memory(root):
    for name, kind in (("weak/hard.parquet", "hard"), (f"{AUDIO}/manifest.parquet", "manifest")):
        content = (root / name).read_bytes()
        with (root / name).open("rb+") as file:
            file.truncate(2**40)
        assert found(root, quick=True) == {(name, None, kind)}
        (root / name).write_bytes(content)


def test_a_table_that_unpacks_to_too_much(root, monkeypatch):
    path = root / "weak" / "hard.parquet"
    table = hard_table(
        ["aa_0", "bb_30000", "cc_0", LONG_KEY, "dd_0", "ee_0", "ff_0", *(f"x{n}_0" for n in range(9_000))]
    )
    write_hard(path, table)
    for limit in ("ROWS", "BYTES"):
        assert found(root, quick=True) == set()
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline._sealed.MAX_TABLE_{limit}", 9_006 if limit == "ROWS" else path.stat().st_size)
            assert found(root, quick=True) == {("weak/hard.parquet", None, "hard")}


def test_a_description_of_other_keys(root, tmp_path):
    """Keys decide which classes people could choose from."""
    Dataset.create(tmp_path / "other", keys="audioset")
    shutil.copy(tmp_path / "other" / "dataset.json", root)
    assert found(root, quick=True) == {("dataset.json", "aa_0", "dataset")}
    assert verify(root, quick=True)[0].detail.startswith(
        "says audioset, 25 clip keys, this one first, are not of that mode;"
    )


@pytest.mark.parametrize(
    ("mode", "good", "bad"),
    [
        ("audioset", ["-_aZ0123456_0", "aaaaaaaaaaa_30000"], ["aaaaaaaaaa_0", "aaaaaaaaaaaa_0", "b%2Ewav_0"]),
        ("audioset", ["bbbbbbbbbbb_10"], ["aaaaaaaaaaa_010"]),
        ("audioset", ["bbbbbbbbbbb_10"], ["aaaaaaaaaaa"]),
        ("path", ["a_0", "a%2Fb%2Ewav_30000", "%C3%A9_1", "-__0"], ["a%2fb_0", "a%2_0", "a_01", "a"]),
    ],
)
def test_keys_of_another_mode_among_those_of_the_dataset(tmp_path, mode, good, bad):
    dataset = Dataset.create(tmp_path, keys=mode)
    write_hard(dataset.hard_path("weak"), hard_table([*good, *bad, *(f"ccccccccccc_{n}" for n in range(5))]))
    write_audio(tmp_path / AUDIO, 0, [*good, *(f"ccccccccccc_{n}" for n in range(5))])
    assert found(tmp_path) == set()
    write_audio(tmp_path / AUDIO, 1, bad)
    assert found(tmp_path) == {(f"{AUDIO}/000001.json", bad[0], "sidecar")}
    assert verify(tmp_path)[0].detail.startswith(
        f"{first_of(len(bad), 'clip key')} not of mode {mode}, which dataset.json says;"
    )


def test_names_that_look_like_a_datasets(root):
    for name in (
        "000000.json",
        "weak/000000.tar",
        "weak/audio/1.json",
        f"{AUDIO}/0000007.tar",
        f"{AUDIO}/7.json",
        f"{FRAMES}/1.tar",
    ):
        (root / name).write_bytes(b"")
        assert found(root) == {(name, None, "foreign")}
        (root / name).unlink()
    for name in ("weak/labels/Frames", "strong/labels/hard_weak", "weak/audio/a b"):
        (root / name).mkdir()
        assert found(root) == {(name, None, "foreign")}
        (root / name).rmdir()
    (root / AUDIO / "000007.tar").write_bytes(b"")
    assert found(root) == {(f"{AUDIO}/000007.json", None, "incomplete")}


def test_damage_to_all_clips_of_a_shard_is_listed_once_in_a_while(root, monkeypatch):
    monkeypatch.setattr("shards.checks._verify_problem.LISTED_PROBLEMS", 2)
    sidecar = read_audio_sidecar(root / AUDIO / "000001.json")
    for offset in sidecar.clips.offset:
        flip(sidecar.tar_path, offset)
    tar = f"{AUDIO}/000001.tar"
    assert found(root) == {(tar, "dd_0", "checksum"), (tar, "ee_0", "checksum"), (tar, None, "checksum")}
    assert verify(root)[-1].detail.startswith("1 more clips of this shard have problems")


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
    assert found(root, quick=True) == {(FRAMES, None, "incomplete")}


def test_edited_sidecars(root):
    path = root / AUDIO / "000001.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"vorbis"', b'"mp3"'))
    assert found(root, quick=True) == {(f"{AUDIO}/000001.json", None, "sidecar")}
    path.write_bytes(content.replace(b'"version":1', b'"version":2'))
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
        (set_first("acoustic", "0" * 2 * ACOUSTIC_BYTES), {(tar, "dd_0", "acoustic"), *stale}),
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


def test_unreadable_audio_sidecar_is_reported_once(root):
    flip(root / AUDIO / "000001.json", 100)
    assert found(root) == {(f"{AUDIO}/000001.json", None, "sidecar")}


def test_a_label_that_is_not_finite(root):
    """A writer refuses it, so it is put there with a checksum that fits."""
    for shard in (0, 1):
        audio = read_audio_sidecar(root / AUDIO / f"00000{shard}.json")
        with LabelShardWriter(root / FRAMES, audio, target=TARGET, provenance={}, codec="npy") as writer:
            for key in audio.clips.key:
                writer.add(key, clip_logits(key))
            writer.commit()
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


def test_one_shard_of_another_spec_among_few(root, tmp_path):
    """As many of each: the folder's name decides which ones belong."""
    other = AudioSpec(sample_rate=16_000, clip_ms=1_000)
    write_audio(root / AUDIO, 0, ["aa_0", "bb_30000", "cc_0", LONG_KEY], spec=other)
    assert found(root) == {(f"{AUDIO}/000000.json", None, "sidecar")}


def test_an_audio_folder_without_shards(root):
    shutil.rmtree(root / AUDIO)
    (root / AUDIO).mkdir()
    problems = found(root)
    assert (AUDIO, None, "incomplete") in problems
    assert {kind for _, _, kind in problems} == {"incomplete", "orphan"}


def test_a_split_without_audio(root):
    shutil.rmtree(root / "strong" / "audio")
    assert found(root) == {("strong/audio", None, "incomplete")}


def test_an_audio_folder_of_two_codecs(root):
    audio = read_audio_sidecar(root / AUDIO / "000001.json")
    with AudioReader(audio) as reader:
        clips = [reader.read(row) for row in range(len(audio.clips))]
    with AudioShardWriter(root / AUDIO, 1, spec=SPEC, provenance=audio.provenance, codec="pcm16") as writer:
        for key, pcm in zip(audio.clips.key, clips, strict=True):
            writer.add(key, pcm, origin="wav")
        writer.reject("rr_0", "damaged", "")
        writer.commit()
    assert found(root) == {(f"{AUDIO}/000001.json", None, "mixed")}


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
    write_hard(path, hard_table(["aa_0", "dd_0", "ff_0", "rr_0"]))
    assert found(root, quick=True) == {
        (f"{AUDIO}/000000.json", "bb_30000", "no_hard"),
        (f"{AUDIO}/000001.json", "ee_0", "no_hard"),
    }
    path.write_bytes(b"PAR1")
    assert found(root, quick=True) == {("weak/hard.parquet", None, "hard")}
    path.unlink()
    assert found(root, quick=True) == {("weak/hard.parquet", None, "hard")}


def test_a_clip_stored_twice(root):
    write_audio(root / AUDIO, 2, ["aa_0"])
    write_labels(root / FRAMES, read_audio_sidecar(root / AUDIO / "000002.json"))
    (root / AUDIO / "manifest.parquet").unlink()
    shutil.rmtree(root / "weak" / "labels" / "other")
    assert found(root) == {(f"{folder}/000002.json", "aa_0", "duplicate") for folder in (AUDIO, FRAMES)}


def test_a_clip_in_two_splits(root):
    folder = root / "strong" / "audio" / SPEC.name
    write_audio(folder, 1, ["dd_0"])
    write_labels(root / "strong/labels/frames", read_audio_sidecar(folder / "000001.json"))
    write_manifest(folder / "manifest.parquet", [("gg_0", 0), ("hh_0", 0), ("dd_0", 1)])
    write_hard(root / "strong" / "hard.parquet", hard_table(["gg_0", "hh_0", "dd_0"]))
    assert found(root) == {(f"strong/audio/{SPEC.name}/000001.json", "dd_0", "duplicate")}


def test_audio_in_the_folder_of_another_spec(root):
    (root / "strong" / "audio" / SPEC.name).rename(root / "strong" / "audio" / "mono-16000hz-10000ms")
    assert found(root) == {("strong/audio/mono-16000hz-10000ms", None, "sidecar")}


def test_dataset_description(root):
    flip(root / "dataset.json", 20)
    assert found(root, quick=True) == {("dataset.json", None, "dataset")}
    (root / "dataset.json").unlink()
    assert found(root, quick=True) == {("dataset.json", None, "dataset")}
