"""What a writer leaves on disk, seen by other readers of tars, and what it leaves when it is disturbed."""

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from pipeline import AudioSpec, FormatError, IntegrityError, MetadataError, TargetSpec, UsageError, atomic_path
from shards import (
    AudioShardWriter,
    LabelReader,
    LabelRefused,
    LabelShardWriter,
    decode_label,
    encode_label,
    read_audio_sidecar,
)
from tests.shards.dataset_examples import LONG_KEY, SPEC, TARGET, clip_logits, clip_pcm, write_audio, write_labels

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = ["aa_0", LONG_KEY, "-b_30000", "_c_0"]


def crc32c(content: bytes) -> int:
    """Castagnoli's CRC by the textbook: reflected polynomial 0x82F63B78, bit by bit."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def pair(tmp_path):
    audio = write_audio(tmp_path / "audio", 3, KEYS, rejected=["rr_0"])
    return audio, write_labels(tmp_path / "labels", audio, failed=frozenset({"-b_30000"}))


def test_crc_oracle_knows_the_published_check_value():
    assert crc32c(b"123456789") == 0xE3069283


def test_plain_tarfile_reads_the_same(pair):
    for sidecar, suffix in zip(pair, (".flac", ".label"), strict=True):
        assert sorted(os.listdir(sidecar.path.parent)) == ["000003.json", "000003.tar"]
        assert sidecar.tar_path.stat().st_mode & 0o777 == sidecar.path.stat().st_mode & 0o777 == 0o644
        whole = sidecar.tar_path.read_bytes()
        assert (len(whole), hashlib.sha256(whole).hexdigest()) == (sidecar.tar_bytes, sidecar.tar_sha256)
        clips = sidecar.clips
        stored = [row for row in range(len(clips)) if clips.length[row]]
        with tarfile.open(sidecar.tar_path) as tar:
            members = tar.getmembers()
            assert [member.name for member in members] == [clips.key[row] + suffix for row in stored]
            for row, member in zip(stored, members, strict=True):
                content = tar.extractfile(member).read()
                assert (member.offset_data, member.size) == (clips.offset[row], clips.length[row])
                assert crc32c(content) == clips.crc32c[row]
                about = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode, member.isreg())
                assert about == (0, 0, 0, "", "", 0o644, True)


def test_system_tar_lists_the_members(pair):
    listing = subprocess.run(["tar", "-tf", pair[0].tar_path], capture_output=True, text=True, check=True)
    assert listing.stdout.split() == [f"{key}.flac" for key in KEYS]
    assert listing.stderr == ""


def test_plain_webdataset_iterates_audio_and_labels(pair):
    audio, labels = pair
    samples = list(webdataset.WebDataset(str(audio.tar_path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == KEYS
    for sample in samples:
        pcm, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="int16")
        assert rate == SPEC.sample_rate
        np.testing.assert_array_equal(pcm, clip_pcm(sample["__key__"]))
    samples = list(webdataset.WebDataset(str(labels.tar_path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["aa_0", LONG_KEY, "_c_0"]
    for sample in samples:
        np.testing.assert_array_equal(decode_label(sample["label"]), clip_logits(sample["__key__"]).astype(np.float16))


def test_labels_encoded_in_threads_are_stored_in_order(pair, tmp_path):
    """Encoding needs no order and changes nothing; storing keeps to that of the audio shard."""
    audio, labels = pair
    with LabelShardWriter(tmp_path, audio, target=TARGET, provenance=labels.provenance) as writer:
        with ThreadPoolExecutor(3) as threads:
            contents = dict(zip(KEYS, threads.map(lambda key: writer.encode(clip_logits(key)), KEYS), strict=True))
        with pytest.raises(UsageError, match="keep its order"):
            writer.store(KEYS[1], contents[KEYS[1]])
        with pytest.raises(LabelRefused, match="NaN"):
            writer.encode(np.full(TARGET.shape, np.nan, np.float32))
        for key, failed in zip(KEYS, labels.clips.length, strict=True):
            if failed == 0:
                writer.fail(key, "not_finite", "NaN at frame 3")
            else:
                writer.store(key, contents[key])
        sidecar = writer.commit()
    assert sidecar.clips == labels.clips


def test_encoded_labels_are_stored_as_they_are_or_refused(pair, tmp_path):
    """What decodes to the target in the codec of the shard is taken byte for byte, anything else is not."""
    audio, _ = pair
    content = encode_label(clip_logits("aa_0"), shape=TARGET.shape, kind="logit", codec="small")
    others = {
        "another codec": encode_label(clip_logits("aa_0"), shape=TARGET.shape, kind="logit", codec="master"),
        "another kind": encode_label(
            np.full(TARGET.shape, 0.5, "f4"), shape=TARGET.shape, kind="probability", codec="small"
        ),
        "another shape": encode_label(clip_logits("aa_0")[:2], shape=(2, 25), kind="logit", codec="small"),
        "cut off": content[:-1],
        "too long": content + b"\0",
    }
    with LabelShardWriter(tmp_path, audio, target=TARGET, provenance={}, codec="small") as writer:
        for other in others.values():
            with pytest.raises(FormatError, match=r"^elsewhere: "):
                writer.add_encoded("aa_0", other, where="elsewhere")
        writer.add_encoded("aa_0", content, where="elsewhere")
        for key in KEYS[1:]:
            writer.fail(key, "absent", "not there")
        sidecar = writer.commit()
    with LabelReader(sidecar) as reader:
        assert reader.read_bytes(0) == content
    infinite = bytearray(encode_label(clip_logits("aa_0"), shape=TARGET.shape, kind="logit", codec="npy"))
    infinite[-2:] = b"\x00\x7c"
    with (
        LabelShardWriter(tmp_path, audio, target=TARGET, provenance={}, codec="npy") as writer,
        pytest.raises(FormatError, match="elsewhere: holds NaN or infinity"),
    ):
        writer.add_encoded("aa_0", bytes(infinite), where="elsewhere")


def test_a_codec_that_cannot_hold_the_target_is_refused_at_once(pair, tmp_path):
    audio, _ = pair
    direction = TargetSpec(axes=("time", "track", "xyz"), kind="unit_vector", hop_ms=100, frames=10, tracks=2)
    for target, codec in ((direction, "small"), (TARGET, "flac")):
        with pytest.raises(UsageError, match="codec"):
            LabelShardWriter(tmp_path, audio, target=target, provenance={}, codec=codec)
    with pytest.raises(UsageError, match="audio codec is 'mp3', needs one of flac, pcm16, fast"):
        AudioShardWriter(tmp_path, 0, spec=SPEC, provenance={}, codec="mp3")


def meanwhile(monkeypatch, what):
    """Do `what` while a writer stands between the rename of its tar and that of its sidecar."""

    @contextlib.contextmanager
    def disturbed(path):
        with atomic_path(path) as temporary:
            yield temporary
            if path.suffix == ".json":
                what()

    monkeypatch.setattr("shards._writer.atomic_path", disturbed)


def test_a_shard_that_another_writer_replaced_is_not_committed(tmp_path, monkeypatch):
    def replace_tar():
        other = tmp_path / "other.tar"
        other.write_bytes(b"another tar")
        other.replace(tmp_path / "000000.tar")

    meanwhile(monkeypatch, replace_tar)
    with pytest.raises(IntegrityError, match="was replaced by another writer"):
        write_audio(tmp_path, 0, KEYS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.tar"]


def test_a_shard_that_another_writer_wrote_alike_is_left_to_it(tmp_path, monkeypatch):
    """As when a worker that was given up wakes beside the one that took its place."""

    def write_again():
        monkeypatch.undo()
        write_audio(tmp_path, 0, KEYS)

    meanwhile(monkeypatch, write_again)
    sidecar = write_audio(tmp_path, 0, KEYS)
    assert read_audio_sidecar(sidecar.path) == sidecar
    assert hashlib.sha256(sidecar.tar_path.read_bytes()).hexdigest() == sidecar.tar_sha256


def test_what_cannot_be_replaced_stays(tmp_path, monkeypatch):
    """No room for the new sidecar: the shard that was there is whole, and nothing else is."""
    before = write_audio(tmp_path, 0, KEYS)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    real = os.fsync

    def no_room(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        write_audio(tmp_path, 0, KEYS[:2])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert read_audio_sidecar(before.path) == before


def test_columns_say_what_was_added(pair):
    audio, labels = pair
    clips = audio.clips
    assert clips.samples == tuple(len(clip_pcm(key)) for key in KEYS)
    expected = [hashlib.sha256(clip_pcm(key).astype("<i2").tobytes()).hexdigest()[:32] for key in KEYS]
    assert clips.identity == labels.clips.identity == tuple(expected)
    assert set(clips.origin) == {"vorbis"}
    assert (set(clips.cut_samples), set(clips.clipped_samples), set(clips.flags)) == ({3}, {1}, {("clipped",)})
    assert (audio.rejected.key, audio.rejected.reason, audio.rejected.detail) == (
        ("rr_0",),
        ("damaged",),
        ("stops early",),
    )
    assert (labels.failed.key, labels.failed.reason) == (("-b_30000",), ("not_finite",))
    assert labels.clips.length[2] == labels.clips.offset[2] == labels.clips.crc32c[2] == 0
    assert labels.spec == audio.spec
    assert audio.provenance == {"stage": "pack", "source": "examples"}
    assert {"sed-distill", "numpy", "libsndfile"} == set(audio.software)


def test_same_clips_same_bytes_and_a_shard_can_be_replaced(pair, tmp_path):
    audio, labels = pair
    before = {path: path.read_bytes() for sidecar in pair for path in (sidecar.path, sidecar.tar_path)}
    again = write_audio(tmp_path / "again", 3, KEYS, rejected=["rr_0"])
    assert again.tar_path.read_bytes() == before[audio.tar_path]
    assert again.path.read_bytes() == before[audio.path]
    write_audio(audio.path.parent, 3, ["other_0"])
    assert read_audio_sidecar(audio.path).clips.key == ("other_0",)
    write_audio(audio.path.parent, 3, KEYS, rejected=["rr_0"])
    write_labels(labels.path.parent, audio, failed=frozenset({"-b_30000"}))
    assert {path: path.read_bytes() for path in before} == before


def test_four_channels(tmp_path):
    spec = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=1_000)
    audio = write_audio(tmp_path, 0, ["aa_0"], spec=spec)
    pcm = clip_pcm("aa_0", spec)
    assert audio.clips.samples == (pcm.shape[1],)
    assert audio.clips.identity[0] == hashlib.sha256(pcm.T.astype("<i2").tobytes()).hexdigest()[:32]


def test_empty_shards_are_shards(tmp_path):
    audio = write_audio(tmp_path, 0, [], rejected=["rr_0"])
    with tarfile.open(audio.tar_path) as tar:
        assert tar.getmembers() == []
    assert list(webdataset.WebDataset(str(audio.tar_path), shardshuffle=False, empty_check=False)) == []
    labels = write_labels(tmp_path / "labels", audio)
    assert len(labels.clips) == 0
    one = write_audio(tmp_path, 1, ["aa_0"])
    assert write_labels(tmp_path / "labels", one, failed=frozenset({"aa_0"})).clips.length == (0,)


def leftovers(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_without_commit_nothing_is_left(tmp_path):
    with AudioShardWriter(tmp_path, 0, spec=SPEC, provenance={}) as writer:
        writer.add("aa_0", clip_pcm("aa_0"), origin="wav")
    assert leftovers(tmp_path) == []
    with pytest.raises(UsageError, match="not being written"):
        writer.commit()

    def fails():
        with AudioShardWriter(tmp_path, 0, spec=SPEC, provenance={}) as writer:
            writer.add("aa_0", clip_pcm("aa_0"), origin="wav")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert leftovers(tmp_path) == []


def test_an_abandoned_writer_leaves_the_committed_shard(pair):
    audio, _ = pair
    before = (audio.path.read_bytes(), audio.tar_path.read_bytes())
    with AudioShardWriter(audio.path.parent, 3, spec=SPEC, provenance={}) as writer:
        writer.add("aa_0", clip_pcm("bb_0"), origin="wav")
    assert (audio.path.read_bytes(), audio.tar_path.read_bytes()) == before


def test_commit_ends_writing(tmp_path):
    with AudioShardWriter(tmp_path, 0, spec=SPEC, provenance={}) as writer:
        writer.commit()
        with pytest.raises(UsageError):
            writer.commit()
        with pytest.raises(UsageError):
            writer.reject("aa_0", "damaged", "")
    assert leftovers(tmp_path) == ["000000.json", "000000.tar"]


def test_bad_clips_are_refused(tmp_path):
    with AudioShardWriter(tmp_path, 0, spec=SPEC, provenance={}) as writer:
        writer.add("aa_0", clip_pcm("aa_0"), origin="wav")
        for call in (
            lambda: writer.add("aa_0", clip_pcm("aa_0"), origin="wav"),
            lambda: writer.reject("aa_0", "damaged", ""),
            lambda: writer.add("a.b_0", clip_pcm("aa_0"), origin="wav"),
            lambda: writer.add("../b_0", clip_pcm("aa_0"), origin="wav"),
            lambda: writer.reject("", "damaged", ""),
        ):
            with pytest.raises(MetadataError, match=r"000000\.json"):
                call()
        for pcm in (np.zeros(8_001, np.int16), np.zeros(0, np.int16), np.zeros(400), np.zeros((4, 400), np.int16)):
            with pytest.raises(ValueError, match="clip bb_0"):
                writer.add("bb_0", pcm, origin="wav")
        with pytest.raises(ValueError, match="tired"):
            writer.reject("bb_0", "tired", "")
        writer.reject("cc_0", "damaged", "two\nlines \udcff")
        sidecar = writer.commit()
    assert sidecar.clips.key == ("aa_0",)
    assert sidecar.rejected.detail == ("two lines \\udcff",)


def test_labels_need_every_clip_once_in_order(pair, tmp_path):
    audio, _ = pair

    def writer():
        return LabelShardWriter(tmp_path / "x", audio, target=TARGET, provenance={})

    with writer() as labels:
        with pytest.raises(UsageError, match=f"has {KEYS[0]} next"):
            labels.add(KEYS[1], clip_logits("a"))
        with pytest.raises(LabelRefused):
            labels.add(KEYS[0], np.full(TARGET.shape, np.nan, np.float32))
        with pytest.raises(ValueError, match="sleepy"):
            labels.fail(KEYS[0], "sleepy", "")
        labels.fail(KEYS[0], "not_finite", "NaN")
        with pytest.raises(UsageError, match="next"):
            labels.fail(KEYS[0], "not_finite", "NaN")
        for key in KEYS[1:3]:
            labels.add(key, clip_logits(key))
        with pytest.raises(UsageError, match="3 of 4 clips"):
            labels.commit()
        labels.add(KEYS[3], clip_logits("a"))
        with pytest.raises(UsageError, match="no further clip"):
            labels.add("zz_0", clip_logits("a"))
    assert leftovers(tmp_path / "x") == []


def test_provenance_that_json_cannot_hold_commits_nothing(tmp_path):
    for provenance in ({"a": float("nan")}, {"a": "\ud800"}, {2: "a", 10: "b"}):
        with AudioShardWriter(tmp_path, 0, spec=SPEC, provenance=provenance) as writer:
            writer.add("aa_0", clip_pcm("aa_0"), origin="wav")
            with pytest.raises((ValueError, FormatError)):
                writer.commit()
        assert leftovers(tmp_path) == []


def test_an_unwritable_folder_is_an_oserror(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"), AudioShardWriter(tmp_path / "file", 0, spec=SPEC, provenance={}):
        pass


def with_file_limit(limit: int, call) -> None:
    """Runs `call` while no file may grow beyond `limit` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("limit", "keys", "rejected"),
    [
        (lambda tar_bytes: 0, KEYS, []),
        (lambda tar_bytes: tar_bytes // 2, KEYS, []),
        (lambda tar_bytes: tar_bytes - 1, KEYS, []),
        (lambda tar_bytes: tar_bytes, [], [f"rr_{i}" for i in range(50)]),
    ],
    ids=["first write", "in the middle", "last byte of the tar", "sidecar"],
)
def test_a_full_disk_leaves_nothing_new(tmp_path, limit, keys, rejected):
    folder, whole = tmp_path / "audio", tmp_path / "whole"
    expected = write_audio(whole, 0, keys, rejected=rejected)
    limit_bytes = limit(expected.tar_bytes)
    assert limit_bytes < max(expected.tar_bytes, expected.path.stat().st_size)
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
        with_file_limit(limit_bytes, lambda: write_audio(folder, 0, keys, rejected=rejected))
    assert leftovers(folder) == []
    write_audio(folder, 0, keys, rejected=rejected)
    for name in ("000000.tar", "000000.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


WRITE_SLOWLY = """
import sys
from pathlib import Path
from tests.shards.dataset_examples import write_audio, write_labels
folder = Path(sys.argv[1])
print("ready", flush=True)
for shard in range(6):
    audio = write_audio(folder / "audio", shard, [f"k{shard}{i}_0" for i in range(30)])
    write_labels(folder / "labels", audio)
"""


def test_a_killed_writer_has_written_whole_shards_or_nothing(tmp_path):
    def run(folder):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", WRITE_SLOWLY, str(folder)], stdout=subprocess.PIPE, env=environment, cwd=REPOSITORY
        )

    started = run(tmp_path / "whole")
    started.stdout.readline()
    begin = time.monotonic()
    assert started.wait() == 0
    lasts_s = time.monotonic() - begin
    whole = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in (tmp_path / "whole").rglob("*.*")}
    assert len(whole) == 24
    rng = random.Random(0)
    for attempt in range(4):
        folder = tmp_path / f"killed{attempt}"
        process = run(folder)
        process.stdout.readline()
        time.sleep(rng.uniform(0, lasts_s))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for sidecar in folder.rglob("[0-9]*.json"):
            assert sidecar.read_bytes() == whole[sidecar.relative_to(folder)]
            tar = sidecar.with_suffix(".tar")
            assert tar.read_bytes() == whole[tar.relative_to(folder)]
        assert run(folder).wait() == 0
        finished = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("[0-9]*.*")}
        assert finished == whole


KILLED_BEFORE_THE_SIDECAR = """
import os, signal, sys
from pathlib import Path
from tests.shards.dataset_examples import write_audio
rename = Path.replace
def kill_at_sidecar(path, target):
    if target.suffix == ".json":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.replace = kill_at_sidecar
write_audio(Path(sys.argv[1]), 3, ["aa_0"])
"""


@pytest.mark.parametrize("replaces", [False, True])
def test_killed_between_tar_and_sidecar_the_shard_does_not_exist(tmp_path, replaces):
    folder = tmp_path / "audio"
    if replaces:
        write_audio(folder, 3, KEYS)
    command = [sys.executable, "-c", KILLED_BEFORE_THE_SIDECAR, str(folder)]
    killed = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [name for name in leftovers(folder) if not name.startswith(".partial-")] == ["000003.tar"]
    write_audio(folder, 3, ["aa_0"])
    expected = write_audio(tmp_path / "whole", 3, ["aa_0"])
    assert (folder / "000003.tar").read_bytes() == expected.tar_path.read_bytes()
    assert read_audio_sidecar(folder / "000003.json") == replace(expected, path=folder / "000003.json")


def test_import_is_light():
    code = (
        "import sys, shards; shards.AudioShardWriter, shards.LabelReader, shards.Dataset;"
        "print(json.dumps([m for m in ('ray', 'librosa', 'torch', 'soxr', 'av', 'webdataset') if m in sys.modules]))"
    )
    command = [sys.executable, "-c", f"import json; {code}"]
    got = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(got.stdout) == []
