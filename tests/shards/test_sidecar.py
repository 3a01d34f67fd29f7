"""Sidecars: what is written is read back, and nothing else is."""

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ACOUSTIC_BYTES, MAX_ACOUSTIC_FRAMES, FormatError, canonical_json
from shards import fingerprint, read_audio_sidecar, read_label_sidecar
from shards._sidecar import sidecar_bytes
from shards._sidecar_parse import MAX_SIDECAR_BYTES, parse_audio_sidecar, parse_label_sidecar
from shards._tar import tar_layout
from tests.shards.dataset_examples import LONG_KEY, write_audio, write_labels

KEYS = ["aa_0", LONG_KEY, "cc_0"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sidecars")
    audio = write_audio(folder / "audio", 7, KEYS, rejected=["rr_0"])
    return audio, write_labels(folder / "labels", audio, failed=frozenset({"cc_0"}))


def signed(value: dict) -> bytes:
    """`value` in the canonical spelling with the checksum that belongs to it, as a careful forger would write it."""
    body = {name: entry for name, entry in value.items() if name != "sha256"}
    body["sha256"] = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    return f"{canonical_json(body)}\n".encode()


def test_written_and_read_are_equal(pair):
    audio, labels = pair
    assert read_audio_sidecar(audio.path) == audio
    assert read_label_sidecar(labels.path) == labels
    assert audio.path.read_bytes() == sidecar_bytes(audio) == signed(json.loads(audio.path.read_bytes()))
    assert (audio.shard, audio.tar_path.name, audio.clips.key) == (7, "000007.tar", tuple(KEYS))
    assert labels.clips.identity == audio.clips.identity
    assert labels.failed.key == ("cc_0",)
    assert audio.rejected.reason == ("damaged",)


def test_fingerprint_is_the_hash_of_canonical_json():
    spelled = '{"a":[1,2.5,null],"b":{"c":"é"}}'
    assert fingerprint({"b": {"c": "é"}, "a": [1, 2.5, None]}) == hashlib.sha256(spelled.encode()).hexdigest()


KEY = st.text("abcXYZ019_%-", min_size=1, max_size=120).filter("rejected".__ne__)
FRAMES = st.integers(0, MAX_ACOUSTIC_FRAMES)
BITS = st.binary(min_size=ACOUSTIC_BYTES - 1, max_size=ACOUSTIC_BYTES - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sidecar_round_trips(pair, data):
    audio, _ = pair
    keys = tuple(data.draw(st.lists(KEY, unique=True, max_size=5)))
    n = len(keys)

    def column(values):
        return tuple(data.draw(st.lists(values, min_size=n, max_size=n)))

    lengths = column(st.integers(1, 20_000))
    offsets, tar_bytes = tar_layout([f"{key}.flac" for key in keys], lengths)
    clips = replace(
        audio.clips,
        key=keys,
        offset=offsets,
        length=lengths,
        crc32c=column(st.integers(0, 2**32 - 1)),
        identity=column(st.text("0123456789abcdef", min_size=32, max_size=32)),
        samples=column(st.integers(1, 8_000)),
        acoustic=column(st.builds(lambda frames, bits: bytes([frames]).hex() + bits.hex(), FRAMES, BITS)),
        origin=column(TEXT),
        cut_samples=column(st.integers(0, 10**9)),
        clipped_samples=column(st.integers(0, 10**9)),
        flags=column(st.lists(TEXT, max_size=2).map(tuple)),
    )
    provenance = data.draw(st.dictionaries(TEXT, JSON, max_size=3))
    rejected = replace(audio.rejected, key=("rejected",), detail=(data.draw(TEXT),))
    sidecar = replace(audio, clips=clips, tar_bytes=tar_bytes, provenance=provenance, rejected=rejected)
    assert parse_audio_sidecar(sidecar_bytes(sidecar), sidecar.path) == sidecar


def test_every_flipped_bit_is_refused(pair):
    rng = random.Random(0)
    for sidecar, parse in zip(pair, (parse_audio_sidecar, parse_label_sidecar), strict=True):
        content = sidecar.path.read_bytes()
        for _ in range(600):
            position, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            damaged = content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]
            with pytest.raises(FormatError, match=r"000007\.json"):
                parse(damaged, sidecar.path)
        for length in range(0, len(content), 41):
            with pytest.raises(FormatError):
                parse(content[:length], sidecar.path)


OTHER = [
    None,
    True,
    -1,
    0,
    1,
    7,
    2**53 + 1,
    10**30,
    1.0,
    1e300,
    "",
    "x",
    "7",
    [],
    {},
    [[]],
    [None],
    ["aa_0"] * 3,
    [1, 1, 1],
    {"a": 1},
]


def places(value, path=()):
    """Every place of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in inner:
        yield from places(entry, (*path, name))


def edited(value, path, change):
    copy = json.loads(json.dumps(value))
    at = copy
    for name in path[:-1]:
        at = at[name]
    change(at, path[-1])
    return copy


def test_careful_edits_are_refused_or_mean_what_they_say(pair):
    """With a new checksum each field's own checks decide: FormatError, or what is read spells the same again."""
    rng = random.Random(1)
    accepted = set()
    for sidecar, parse in zip(pair, (parse_audio_sidecar, parse_label_sidecar), strict=True):
        value = json.loads(sidecar.path.read_bytes())
        for path in [place for place in places(value) if place and place != ("sha256",)]:
            changes = [lambda at, name: at.pop(name)]
            changes += [lambda at, name, new=new: at.__setitem__(name, new) for new in rng.sample(OTHER, 8)]
            for change in changes:
                content = signed(edited(value, path, change))
                refusal = ""
                try:
                    got = parse(content, sidecar.path)
                except FormatError as error:
                    refusal = str(error)
                if refusal:
                    assert refusal.startswith(str(sidecar.path))
                    assert "\n" not in refusal
                else:
                    assert sidecar_bytes(got) == content
                    if content != sidecar.path.read_bytes():
                        accepted.add(".".join(str(step) for step in path[:2]))
    # What cannot be checked without the tar: counts, origins, flags, checksums of contents, versions, details.
    assert accepted <= {
        "clips.cut_samples",
        "clips.clipped_samples",
        "clips.samples",
        "clips.crc32c",
        "clips.acoustic",
        "clips.length",  # within the same 512 bytes
        "target.frames",  # what compressed labels decode to
        "clips.origin",
        "clips.flags",
        "clips.key",
        "rejected.detail",
        "rejected.key",
        "failed.detail",
        "software",
        "software.numpy",
        "software.sed-distill",
        "software.libsndfile",
        "target.vocabulary",  # names of classes; the MIDs have their hash
        "target.context_ms",
        "target.hop_ms",
        "spec.sample_rate",
        "spec.clip_ms",
        "spec.layout",
        "target.kind",
    }


def put(value, **changes):
    return {**value, **changes}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda v: put(v, version=2),
            "has format version 2, this version of sed-distill reads 1; use the version that wrote",
        ),
        (lambda v: put(v, version=False), "format version False"),
        (lambda v: put(v, format="zip"), "is not of format sed-distill/shard"),
        (lambda v: put(v, kind="labels"), "kind: is 'labels'"),
        (lambda v: put(v, more=1), r"unknown \['more'\]"),
        (lambda v: {k: e for k, e in v.items() if k != "codec"}, r"missing \['codec'\]"),
        (lambda v: put(v, codec="zstd"), "codec: is 'zstd'"),
        (lambda v: put(v, shard=8), "is the sidecar of shard 000008"),
        (lambda v: put(v, fingerprint="0" * 64), "fingerprint: is not the hash"),
        (lambda v: put(v, provenance=[]), "fingerprint"),
        (lambda v: put(v, tar=put(v["tar"], sha256="A" * 64)), "tar.sha256"),
        (lambda v: put(v, tar=put(v["tar"], bytes=v["tar"]["bytes"] + 512)), "does not follow"),
        (lambda v: put(v, spec=put(v["spec"], layout="stereo")), "spec.layout"),
        (lambda v: put(v, spec=put(v["spec"], sample_rate=11)), "11 Hz"),
        (lambda v: put(v, clips=put(v["clips"], key=["aa_0", "aa_0", "cc_0"])), "clips.key: names a clip twice"),
        (
            lambda v: put(v, clips=put(v["clips"], key=["../aa", "b", "cc_0"])),
            "clips.key: '../aa' cannot be a clip key",
        ),
        (lambda v: put(v, clips=put(v["clips"], samples=[1, 2])), "columns have different lengths"),
        (lambda v: put(v, clips=put(v["clips"], samples=[1, 2, 8_001])), "clips.samples"),
        (lambda v: put(v, clips=put(v["clips"], length=[2**33 - 1, 1, 1])), "clips.length"),
        (lambda v: put(v, clips=put(v["clips"], offset=v["clips"]["offset"][::-1])), "clips.offset"),
        (lambda v: put(v, clips=put(v["clips"], crc32c=[0, 1, 2**32])), r"clips.crc32c\[2\]"),
        (
            lambda v: put(v, clips=put(v["clips"], acoustic=["fd" + "0" * 126, *v["clips"]["acoustic"][1:]])),
            "clips.acoustic: a fingerprint is of 253 frames, needs at most 252",
        ),
        (lambda v: put(v, clips=put(v["clips"], identity=["0" * 32, "0" * 32, "0" * 31])), "clips.identity"),
        (lambda v: put(v, rejected=put(v["rejected"], reason=["tired"])), "rejected.reason: is 'tired'"),
        (lambda v: put(v, rejected=put(v["rejected"], key=["aa_0"])), "rejected.key: names a clip that is also stored"),
    ],
)
def test_refusals_name_file_and_field(pair, change, says):
    audio, _ = pair
    with pytest.raises(FormatError, match=says) as refused:
        parse_audio_sidecar(signed(change(json.loads(audio.path.read_bytes()))), audio.path)
    assert str(refused.value).startswith(str(audio.path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: put(v, failed={"key": [], "reason": [], "detail": []}), "failed.key"),
        (lambda v: put(v, clips=put(v["clips"], crc32c=[1, 2, 3])), "length 0 needs offset 0"),
        (lambda v: put(v, target=put(v["target"], frames=1)), r"clips.length: a label of shape \(3, 1\) has at most"),
        (lambda v: put(v, target=put(v["target"], frames=2**53)), "target.frames"),
        (lambda v: put(v, target=put(v["target"], frames=2**23)), "more than 16777216 values"),
        (lambda v: put(v, clips=put(v["clips"], acoustic=["00"] * 3)), "clips.acoustic"),
        (lambda v: put(v, target=put(v["target"], axes=["class", "class"])), "target axes"),
        (
            lambda v: put(
                v, target=put(v["target"], vocabulary=put(v["target"]["vocabulary"], mids=["/m/b", "/m/a", "/m/c"]))
            ),
            "class list does not have the hash",
        ),
    ],
)
def test_refusals_of_labels(pair, change, says):
    _, labels = pair
    with pytest.raises(FormatError, match=says) as refused:
        parse_label_sidecar(signed(change(json.loads(labels.path.read_bytes()))), labels.path)
    assert str(refused.value).startswith(str(labels.path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"format":"sed-distill/shard","version":1,"a":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format":"sed-distill/shard","version":1,"a":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"format":"sed-distill/shard","version":1,"a":NaN}',
        b'{"format":"sed-distill/shard","version":1,"a":1e999}',
        b'{"format":"sed-distill/shard","version":1,"a":' + b"9" * 5000 + b"}",
        b'{"format":"sed-distill/shard","version":1,"a":"\\ud800"}',
        b'{"format":"sed-distill/shard","version":1,"version":1}',
    ],
)
def test_hostile_json_is_one_format_error(content):
    with pytest.raises(FormatError, match=r"^000000\.json: [^\n]+$"):
        parse_audio_sidecar(content, Path("000000.json"))


def test_a_huge_file_is_refused_before_it_is_parsed(pair, tmp_path):
    huge = tmp_path / "000007.json"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(FormatError, match=f"is over {MAX_SIDECAR_BYTES} bytes"):
        read_audio_sidecar(huge)


def test_a_missing_sidecar_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"000001\.json: is not there"):
        read_label_sidecar(tmp_path / "000001.json")


def test_a_link_to_a_pipe_is_not_waited_on(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "000001.json").symlink_to(tmp_path / "pipe")
    (tmp_path / "000002.json").symlink_to("/dev/zero")
    for name in ("000001.json", "000002.json"):
        with pytest.raises(FormatError, match=rf"{name}: cannot be read \(is a folder, a pipe or a device"):
            read_label_sidecar(tmp_path / name)


def test_another_spelling_of_the_same_is_refused(pair):
    audio, _ = pair
    value = json.loads(audio.path.read_bytes())
    for content in (json.dumps(value).encode(), audio.path.read_bytes().rstrip(b"\n"), audio.path.read_bytes() + b"\n"):
        with pytest.raises(FormatError):
            parse_audio_sidecar(content, audio.path)
