"""Clip keys over names that nobody thought of: against a rule spelled segment by segment, and as round trips."""

import re
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import AudioSetKeys, MetadataError, key_path, path_key, split_key
from shards._sidecar import is_clip_key

# Few characters, so that ids look like prefixes, starts and ends of one another.
IDS = st.text("Yid_-03", min_size=11, max_size=11)
STARTS = st.sampled_from([0, 3, 30, 300, 3_000, 30_000, 30_030, 3_000_000])
NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,3})?"


def means(name: str, ytid: str, start_ms: int) -> bool:
    """Whether `name`, without folders and extension, can be the segment: the rule, for one segment."""
    found = re.fullmatch(rf"(?:|Y|id_){re.escape(ytid)}(?:_(?P<start>{NUMBER})(?:[_-]{NUMBER})?)?", name)
    if found is None or found["start"] is None:
        return found is not None
    start = Fraction(found["start"])
    return 1000 * start == start_ms or ("." not in found["start"] and start == start_ms)


@st.composite
def names(draw: st.DrawFn, segments: list[tuple[str, int]]) -> str:
    """A spelling of one of the segments, or of something near it."""
    ytid, start_ms = draw(st.sampled_from(segments))
    start = draw(
        st.sampled_from(
            ["", f"_{start_ms}", f"_{start_ms / 1000:.3f}", f"_{start_ms // 1000}", "_3", "_0003", "_3.0303"]
        )
    )
    end = draw(st.sampled_from(["", "_30000", "-30.000", "_", "-3-3"]))
    name = f"{draw(st.sampled_from(['', 'Y', 'id_', 'YY', 'id']))}{ytid}{start}{end}"
    if draw(st.booleans()):
        at = draw(st.integers(0, len(name) - 1))
        name = name[:at] + name[at + 1 :]
    return name


@settings(max_examples=300, deadline=None)
@given(data=st.data(), segments=st.lists(st.tuples(IDS, STARTS), min_size=1, max_size=6, unique=True))
def test_a_name_means_the_segments_that_can_be_spelled_so(data: st.DataObject, segments: list[tuple[str, int]]) -> None:
    keys = AudioSetKeys(
        pa.table({"ytid": [ytid for ytid, _ in segments], "start_ms": pa.array([ms for _, ms in segments], pa.int64())})
    )
    name = data.draw(names(segments))
    spelled = (
        f"{data.draw(st.sampled_from(['', '07/', 'a.b/']))}{name}{data.draw(st.sampled_from(['', '.mp3', '.WAV']))}"
    )
    meant = [f"{ytid}_{start_ms}" for ytid, start_ms in segments if means(name, ytid, start_ms)]
    if len(meant) > 1:
        with pytest.raises(MetadataError, match="can be any of") as ambiguous:
            keys.key(spelled)
        assert all(key in str(ambiguous.value) for key in meant)
    else:
        assert keys.key(spelled) == (meant[0] if meant else None)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("a%2F_0-E5.", max_size=30))
@example("%2F_0")
@example("%2f_0")
@example("a_0\n")
@example("a_٣")
def test_any_text_is_the_key_of_one_path_or_refused(text: str) -> None:
    for inverse, back in ((split_key, lambda stem, start_ms: f"{stem}_{start_ms}"), (key_path, path_key)):
        try:
            parts = inverse(text)
        except MetadataError:
            continue
        assert back(*parts) == text
        if inverse is key_path:
            assert is_clip_key(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_path_has_a_key_that_a_shard_takes_or_is_refused(path: str) -> None:
    try:
        key = path_key(path.encode("utf-8", "surrogatepass"))
    except MetadataError:
        assert not path or 3 * len(path.encode("utf-8", "surrogatepass")) + 2 > 240
        return
    assert is_clip_key(key)
    assert key_path(key)[0] == path.encode("utf-8", "surrogatepass")
