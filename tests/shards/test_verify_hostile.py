"""Archives and sidecars made to do harm, with every hash in order: verify names them and stays within its bounds."""

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipeline import Vocabulary, acoustic_fingerprint, hard_table, pcm_identity, write_hard
from shards import AudioSidecar, Dataset, LabelShardWriter, encode_audio, read_audio_sidecar, read_label_sidecar, verify
from shards._sidecar import sidecar_bytes
from shards._sidecar_parse import MAX_SIDECAR_BYTES
from tests.shards.dataset_examples import SPEC, TARGET, clip_logits, write_audio
from tests.shards.test_sidecar import signed

KEYS = ["aa_0", "bb_0", "cc_0"]
LABELS = "weak/labels/frames"


@pytest.fixture
def audio(tmp_path) -> AudioSidecar:
    dataset = Dataset.create(tmp_path, keys="path")
    write_hard(dataset.hard_path("weak"), hard_table(KEYS))
    return write_audio(dataset.audio_folder("weak", SPEC.name), 0, KEYS)


def found(root: Path) -> list[tuple[str, str | None, str]]:
    return [(problem.shard.name, problem.key, problem.kind) for problem in verify(root)]


def contents(sidecar) -> list[bytes]:
    tar = sidecar.tar_path.read_bytes()
    places = zip(sidecar.clips.offset, sidecar.clips.length, strict=True)
    return [tar[offset : offset + length] for offset, length in places]


def put(sidecar, headers: list[bytes], members: list[bytes], end: bytes = bytes(1024)) -> None:
    """A tar of these parts in the place of the shard's, and the sidecar with its size and hash."""
    padded = (member + bytes(-len(member) % 512) for member in members)
    tar = b"".join(part for pair in zip(headers, padded, strict=True) for part in pair) + end
    sidecar.tar_path.write_bytes(tar)
    value = json.loads(sidecar.path.read_bytes())
    value["tar"] = {"bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    value["clips"]["crc32c"] = [google_crc32c.value(member) for member in members]
    sidecar.path.write_bytes(signed(value))


def header(sidecar, row: int, **changes) -> bytes:
    """As the standard library spells a member of this shard, but for `changes`."""
    info = tarfile.TarInfo(f"{sidecar.clips.key[row]}.flac")
    info.size = sidecar.clips.length[row]
    for name, value in changes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "/etc/passwd"},
        {"name": "../../bb_0.flac"},
        {"name": "./bb_0.flac"},
        {"name": "aa_0.flac"},
        {"name": "bb_0.FLAC"},
        {"name": "", "size": 0},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "aa_0.flac"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.CONTTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.GNUTYPE_LONGNAME},
        {"type": tarfile.XHDTYPE},
        {"type": tarfile.XGLTYPE},
        {"size": 0},
        {"size": 1},
        {"size": 2**33 - 1},
        {"mode": 0o4755},
        {"uid": 1},
        {"mtime": 1},
        {"uname": "root"},
    ],
    ids=str,
)
def test_members_that_a_careless_reader_would_follow(audio, tmp_path, changes):
    good = [header(audio, row) for row in range(3)]
    put(audio, good, contents(audio))
    assert found(tmp_path) == []
    put(audio, [good[0], header(audio, 1, **changes), good[2]], contents(audio))
    assert found(tmp_path) == [("000000.tar", "bb_0", "member")]
    assert [problem.kind for problem in verify(tmp_path, decode=False)] == ["member"]


def test_size_as_a_binary_number(audio, tmp_path):
    """GNU's other spelling of sizes, here of one that is negative."""
    block = bytearray(header(audio, 1))
    block[124:136] = b"\xff" * 12
    block[148:156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
    put(audio, [header(audio, 0), bytes(block), header(audio, 2)], contents(audio))
    assert found(tmp_path) == [("000000.tar", "bb_0", "member")]


def test_more_behind_the_last_member(audio, tmp_path):
    headers = [header(audio, row) for row in range(3)]
    more = header(audio, 0) + bytes(512)
    put(audio, headers, contents(audio), end=more)  # of the size of an end marker
    assert found(tmp_path) == [("000000.tar", None, "tar_hash")]
    put(audio, headers, contents(audio), end=bytes(1024) + more)
    assert found(tmp_path) == [("000000.json", None, "sidecar")]
    put(audio, headers, contents(audio))
    with audio.tar_path.open("ab") as file:
        file.write(more)
    assert found(tmp_path) == [("000000.tar", None, "tar_size")]


def test_a_tar_of_nothing_but_holes(audio, tmp_path):
    with audio.tar_path.open("rb+") as file:
        file.truncate(2**42)
    assert found(tmp_path) == [("000000.tar", None, "tar_size")]


def resized(audio: AudioSidecar, row: int, content: bytes, **clip) -> None:
    """`content` as the member of a row, with sizes, offsets and hashes in order; `clip`: other columns of the row."""
    members = contents(read_audio_sidecar(audio.path))
    members[row] = content
    value = json.loads(audio.path.read_bytes())
    value["clips"]["length"] = [len(member) for member in members]
    ends = np.cumsum([0, *(512 + len(member) + -len(member) % 512 for member in members[:-1])])
    value["clips"]["offset"] = [int(end) + 512 for end in ends]
    for column, entry in clip.items():
        value["clips"][column][row] = entry
    audio.path.write_bytes(signed(value))
    clips = replace(audio.clips, length=tuple(map(len, members)))
    put(audio, [header(replace(audio, clips=clips), at) for at in range(3)], members)


def test_a_member_that_holds_more_than_it_says(audio, tmp_path):
    """Two minutes of silence take fewer bytes than a second of noise."""
    bomb = encode_audio(np.zeros(SPEC.sample_rate * 120, np.int16), SPEC, "flac")
    assert len(bomb) < audio.clips.length[1]
    resized(audio, 1, bomb)
    assert found(tmp_path) == [("000000.tar", "bb_0", "audio")]
    assert verify(tmp_path, decode=False) == ()
    resized(audio, 1, bomb, samples=SPEC.sample_rate * 120)
    assert found(tmp_path) == [("000000.json", None, "sidecar")]


def test_a_member_of_other_audio_with_its_own_length(audio, tmp_path):
    bursts = np.repeat([0, 1, 0, 1], 2_000) * np.random.default_rng(0).normal(size=8_000)
    other = np.round(bursts * 3_000).astype(np.int16)
    content = encode_audio(other, SPEC, "flac")
    resized(audio, 1, content, samples=8_000)
    assert found(tmp_path) == [("000000.tar", "bb_0", "audio")]
    resized(audio, 1, content, samples=8_000, identity=pcm_identity(other))
    assert found(tmp_path) == [("000000.tar", "bb_0", "acoustic")]
    acoustic = acoustic_fingerprint(other, SPEC.sample_rate).hex()
    resized(audio, 1, content, samples=8_000, identity=pcm_identity(other), acoustic=acoustic)
    assert found(tmp_path) == []


def test_a_label_of_another_shape(audio, tmp_path):
    """Of as many bytes, in a spelling that says itself what it holds."""
    mids = ("/m/a", "/m/b", "/m/c", "/m/d", "/m/e")
    turned = replace(TARGET, axes=("time", "class"))
    fewer = replace(TARGET, vocabulary=Vocabulary(mids, mids), frames=15)
    good = None
    for target in (TARGET, turned, fewer):
        with LabelShardWriter(tmp_path / LABELS, audio, target=target, provenance={}, codec="npy") as writer:
            for key in KEYS:
                writer.add(key, clip_logits(key).reshape(target.shape))
            sidecar = writer.commit()
        good = good or sidecar
        # The sidecar of one target over the tar of another.
        same = replace(sidecar, target=TARGET, clips=replace(sidecar.clips))
        sidecar.path.write_bytes(sidecar_bytes(same))
        expected = [] if target == TARGET else [("000000.tar", key, "label") for key in KEYS]
        assert found(tmp_path) == expected
    assert read_label_sidecar(good.path).target == TARGET


def test_a_sidecar_of_very_many_members(audio, tmp_path):
    """As many as fit its size are read and found not to be in the tar; more are refused unread."""
    n = 20_000
    value = json.loads(audio.path.read_bytes())
    columns = value["clips"]
    for name, column in columns.items():
        columns[name] = column[:1] * n
    columns["key"] = [f"k{number}_0" for number in range(n)]
    columns["length"] = [1] * n
    columns["offset"] = [512 + 1024 * number for number in range(n)]
    value["tar"]["bytes"] = 1024 * (n + 1)
    content = signed(value)
    assert len(content) < MAX_SIDECAR_BYTES
    audio.path.write_bytes(content)
    assert [kind for _, _, kind in found(tmp_path)] == ["tar_size", "no_hard"]
    assert len(read_audio_sidecar(audio.path).clips) == n
    audio.path.write_bytes(content + b" " * MAX_SIDECAR_BYTES)
    assert found(tmp_path) == [("000000.json", None, "sidecar")]
