"""The written format over values that nobody thought of: sidecars and tar headers."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ACOUSTIC_BYTES, MAX_ACOUSTIC_FRAMES, FormatError, TargetSpec, Vocabulary
from shards import LABEL_FAILURES, LabelClips, Refusals
from shards._sidecar import sidecar_bytes
from shards._sidecar_parse import parse_audio_sidecar, parse_label_sidecar
from shards._tar import TarWriter, tar_header, tar_layout
from shards.codecs._label import label_suffix, max_label_bytes
from tests.shards.dataset_examples import write_audio, write_labels
from tests.shards.faults import signed
from tests.shards.sidecar_edits import places

KEYS = st.text("abcXYZ019_%-", min_size=1, max_size=240)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SIZES = st.integers(1, 40)


@st.composite
def targets(draw: st.DrawFn) -> TargetSpec:
    axes = tuple(draw(st.lists(st.sampled_from(["class", "time", "track"]), min_size=1, unique=True)))
    kind = draw(st.sampled_from(["logit", "probability", "metre", "unit_vector"]))
    if kind == "unit_vector":
        axes = (*axes, "xyz")
    mids = tuple(draw(st.lists(TEXT, min_size=1, max_size=5, unique=True)))
    return TargetSpec(
        axes=axes,
        kind=kind,
        vocabulary=Vocabulary(mids, tuple(reversed(mids))) if "class" in axes else None,
        context_ms=draw(st.integers(1, 10**7)),
        hop_ms=draw(SIZES) if "time" in axes else None,
        frames=draw(SIZES) if "time" in axes else None,
        tracks=draw(SIZES) if "track" in axes else None,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("properties")
    audio = write_audio(folder / "audio", 7, ["aa_0", "bb_0"])
    return audio, write_labels(folder / "labels", audio)


ACOUSTIC = st.builds(
    lambda frames, bits: bytes([frames]) + bits,
    st.integers(0, MAX_ACOUSTIC_FRAMES),
    st.binary(min_size=ACOUSTIC_BYTES - 1, max_size=ACOUSTIC_BYTES - 1),
)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), target=targets())
def test_any_label_sidecar_round_trips(pair, data, target):
    codec = data.draw(st.sampled_from(["master", "npy"]))
    keys = data.draw(st.lists(KEYS, unique=True, max_size=6))
    longest = max_label_bytes(target.shape, codec)
    lengths = [data.draw(st.just(0) | st.integers(1, longest)) for _ in keys]
    stored = [row for row, length in enumerate(lengths) if length]
    names = [f"{keys[row]}.{label_suffix(codec)}" for row in stored]
    places_of_stored, tar_bytes = tar_layout(names, [lengths[row] for row in stored])
    offsets = dict(zip(stored, places_of_stored, strict=True))
    digits = "0123456789abcdef"
    clips = LabelClips(
        key=tuple(keys),
        offset=tuple(offsets.get(row, 0) for row in range(len(keys))),
        length=tuple(lengths),
        crc32c=tuple(data.draw(st.integers(0, 2**32 - 1)) if length else 0 for length in lengths),
        identity=tuple(data.draw(st.text(digits, min_size=32, max_size=32)) for _ in keys),
        samples=tuple(data.draw(st.integers(1, 8_000)) for _ in keys),
        acoustic=tuple(data.draw(ACOUSTIC).hex() for _ in keys),
    )
    failed = [
        (key, data.draw(st.sampled_from(LABEL_FAILURES)), data.draw(TEXT))
        for key, length in zip(keys, lengths, strict=True)
        if not length
    ]
    refusals = (
        Refusals(**dict(zip(("key", "reason", "detail"), map(tuple, zip(*failed, strict=True)), strict=True)))
        if failed
        else Refusals()
    )
    sidecar = replace(pair[1], codec=codec, target=target, clips=clips, failed=refusals, tar_bytes=tar_bytes)
    assert parse_label_sidecar(sidecar_bytes(sidecar), sidecar.path) == sidecar


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_refused_or_read_as_it_is_spelled(pair, data):
    """Signed, so that nothing but the meaning is left to object to."""
    sidecar, parse = data.draw(st.sampled_from([(pair[0], parse_audio_sidecar), (pair[1], parse_label_sidecar)]))
    value = json.loads(sidecar.path.read_bytes())
    place = data.draw(st.sampled_from([place for place in places(value) if place]))
    at = value
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = data.draw(JSON)
    content = signed(value)
    refusal = ""
    try:
        assert sidecar_bytes(parse(content, sidecar.path)) == content
    except FormatError as error:
        refusal = str(error)
    assert not refusal or (refusal.startswith(str(sidecar.path)) and "\n" not in refusal)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused(content):
    with pytest.raises(FormatError, match=r"^000007\.json: "):
        parse_audio_sidecar(content, Path("000007.json"))


@pytest.mark.parametrize("length", [*range(1, 12), *range(90, 112), *range(235, 250)])
def test_headers_of_names_of_any_length_are_read_by_tarfile(length):
    name = ("k" * length)[: max(length - 5, 0)] + "k.npy"[-min(length, 5) :]
    file = io.BytesIO()
    writer = TarWriter(file)
    contents = [b"", b"x", b"y" * 512, b"z" * 513]
    offsets = [writer.add(f"{number}{name}", content) for number, content in enumerate(contents)]
    writer.finish()
    assert tar_layout([f"{number}{name}" for number in range(4)], list(map(len, contents))) == (
        tuple(offsets),
        writer.bytes,
    )
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [f"{number}{name}" for number in range(4)]
        assert [member.offset_data for member in members] == offsets
        assert [tar.extractfile(member).read() for member in members] == contents


@settings(max_examples=100, deadline=None)
@given(KEYS, st.integers(0, 2**33 - 1))
def test_a_header_says_name_and_size(key, size):
    header = tar_header(f"{key}.flac", size)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:", ignore_zeros=True) as tar:
        info = tarfile.TarInfo.frombuf(header[-512:], "ascii", "strict")
        assert (info.size, info.isreg()) == (size, True)
        assert tar.next().name == f"{key}.flac"
