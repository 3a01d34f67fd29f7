"""Clip keys: every spelling in use against a small segment list, path keys against round trips."""

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import (
    MAX_KEY_LENGTH,
    AudioSetKeys,
    MetadataError,
    UsageError,
    check_unique,
    key_path,
    path_key,
    read_weak_csv,
    split_key,
)


def segments(*pairs: tuple[str, int]) -> pa.Table:
    return pa.table({"ytid": [ytid for ytid, _ in pairs], "start_ms": pa.array([ms for _, ms in pairs], pa.int64())})


YTIDS = [
    "s9d-2nhuJCQ",
    "--PJHxphWEs",
    "Yd10enP9ykM",
    "Y_Y_Y_Y_Y_Y",
    "_bcdefghij_",
    "id_abcdefgh",
    "abcdefghi_3",
    "12345678901",
]
SPELLINGS = [
    "{id}",
    "Y{id}",
    "id_{id}",
    "Y{id}.mp3",
    "Y{id}.wav",
    "Y{id}.flac",
    "Y{id}.m4a",
    "Y{id}.webm",
    "Y{id}.opus",
    "Y{id}.ogg",
    "Y{id}.WAV",
    "{id}.mp3",
    "07/Y{id}.mp3",
    "audio/unbalanced/07/Y{id}.mp3",
    "{id}_{ms}",
    "Y{id}_{ms}.flac",
    "id_{id}_{ms}.wav",
    "{id}_{s}",
    "{id}_{s}.wav",
    "{id}_{s}.000",
    "{id}_{s}.000_{e}.000.wav",
    "{id}_{ms}_{ems}",
    "{id}_{ms}-{ems}.mp3",
    "{id}_{s}_{e}",
    "{id}_{s}-{e}",
    "Y{id}_{s}_{e}.wav",
    "Y{id}_{ms}-{ems}.wav",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("start_ms", [0, 30_000])
def test_every_spelling_means_its_clip(spelling: str, start_ms: int) -> None:
    keys = AudioSetKeys(segments(*((ytid, start_ms) for ytid in YTIDS)))
    for ytid in YTIDS:
        start, end = start_ms // 1000, start_ms // 1000 + 10
        name = spelling.format(id=ytid, ms=start_ms, ems=start_ms + 10_000, s=start, e=end)
        assert keys.key(name) == f"{ytid}_{start_ms}", name


@pytest.mark.parametrize(
    "name",
    [
        "aaaaaaaaaaa",  # an id, but of no segment
        "Ys9d-2nhuJCQ_31000.wav",  # the id, but cut elsewhere
        "s9d-2nhuJCQ_30.5",
        "s9d-2nhuJCQ_30_40_50",
        "s9d-2nhuJCQx",
        "xs9d-2nhuJCQ",
        "yS9d-2nhuJCQ",
        "s9d-2nhuJC",
        "s9d-2nhuJCQ_",
        "s9d-2nhuJCQ/readme.txt",
        "s9d-2nhuJCÖ",
        "",
    ],
)
def test_other_names_mean_nothing(name: str) -> None:
    assert AudioSetKeys(segments(("s9d-2nhuJCQ", 30_000))).key(name) is None


def test_an_extension_does_not_eat_characters_of_the_id() -> None:
    keys = AudioSetKeys(segments(("abcdefghmp3", 0), ("abcdefgh3pm", 0)))
    assert keys.key("Yabcdefghmp3.mp3") == "abcdefghmp3_0"
    assert keys.key("Yabcdefgh3pm.mp3") == "abcdefgh3pm_0"


def test_an_id_with_several_segments_needs_a_start() -> None:
    keys = AudioSetKeys(segments(("s9d-2nhuJCQ", 30_000)), segments(("s9d-2nhuJCQ", 0), ("s9d-2nhuJCQ", 30_000)))
    assert len(keys) == 2
    assert keys.key("Ys9d-2nhuJCQ_30.wav") == "s9d-2nhuJCQ_30000"
    with pytest.raises(MetadataError, match=r"^Ys9d-2nhuJCQ\.wav: can be any of s9d-2nhuJCQ_0, s9d-2nhuJCQ_30000; "):
        keys.key("Ys9d-2nhuJCQ.wav")


def test_two_readings_that_both_exist_are_ambiguous() -> None:
    seconds_or_ms = AudioSetKeys(segments(("s9d-2nhuJCQ", 30), ("s9d-2nhuJCQ", 30_000)))
    with pytest.raises(MetadataError, match="s9d-2nhuJCQ_30, s9d-2nhuJCQ_30000"):
        seconds_or_ms.key("s9d-2nhuJCQ_30")
    assert seconds_or_ms.key("s9d-2nhuJCQ_30.000") == "s9d-2nhuJCQ_30000"
    prefix_or_id = AudioSetKeys(segments(("id_abcdefgh", 30_000), ("abcdefgh_30", 0)))
    with pytest.raises(MetadataError, match="abcdefgh_30_0, id_abcdefgh_30000"):
        prefix_or_id.key("id_abcdefgh_30")


def test_audioset_keys_need_a_segment_list() -> None:
    with pytest.raises(UsageError, match="--keys audioset needs a segment list"):
        AudioSetKeys()


def test_real_ids_in_every_spelling(shared: Path) -> None:
    table = read_weak_csv(shared / "data" / "eval_segments.csv")
    keys = AudioSetKeys(table)
    assert len(keys) == 20_371
    rows = table.slice(0, 20_371).take(list(range(0, 20_371, 7))).to_pylist()
    assert {row["ytid"][0] for row in rows} >= {"-", "_", "Y"}
    for row in rows:
        ytid, start_ms = row["ytid"], row["start_ms"]
        start_s, end_s = start_ms // 1000, row["end_ms"] // 1000
        for name in (
            f"Y{ytid}.wav",
            f"03/Y{ytid}.mp3",
            f"{ytid}_{start_ms}",
            f"id_{ytid}",
            f"{ytid}_{start_s}_{end_s}.flac",
        ):
            assert keys.key(name) == row["key"]


SEGMENT = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
RELATIVE_PATHS = st.lists(SEGMENT, min_size=1, max_size=3).map(b"/".join)


@given(path=RELATIVE_PATHS, start_ms=st.integers(0, 10**9))
@example(path=b"a_1.wav", start_ms=2)
@example(path=b"%41", start_ms=0)
@example(path=b"\xff\xfe.ogg", start_ms=0)
@settings(max_examples=200)
def test_path_keys_come_back_as_their_path(path: bytes, start_ms: int) -> None:
    key = path_key(path, start_ms)
    assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-%")
    assert key_path(key) == (path, start_ms)
    stem, start = split_key(key)
    assert f"{stem}_{start}" == key
    assert path_key(os.fsdecode(path), start_ms) == key


@given(st.lists(RELATIVE_PATHS, min_size=2, max_size=6, unique=True))
@settings(max_examples=50)
def test_different_paths_have_different_keys(paths: list[bytes]) -> None:
    assert max(Counter(path_key(path) for path in paths).values()) == 1


def test_path_keys_spelled_out() -> None:
    assert path_key("dogs/a b.wav", 10_000) == "dogs%2Fa%20b%2Ewav_10000"
    assert path_key("100%.ü") == "100%25%2E%C3%BC_0"
    assert path_key("a_1.wav") != path_key("a/1.wav")
    assert split_key("s9d_2nhuJCQ_30000") == ("s9d_2nhuJCQ", 30_000)


@pytest.mark.parametrize("key", ["a.wav_0", "a%2ewav_0", "%41_0", "a%2_0", "a b_0"])
def test_a_key_no_path_has_is_refused(key: str) -> None:
    with pytest.raises(MetadataError, match="is not a key made of a path"):
        key_path(key)


@pytest.mark.parametrize("key", ["", "a", "a_", "_0", "a_-1", "a_01", "a_1.5"])
def test_text_without_a_start_is_no_key(key: str) -> None:
    with pytest.raises(MetadataError, match="is not a clip key"):
        split_key(key)


def test_too_long_a_path_says_so() -> None:
    longest = "a" * (MAX_KEY_LENGTH - 2)
    assert len(path_key(longest)) == MAX_KEY_LENGTH
    with pytest.raises(MetadataError, match="has a clip key of 241 characters, needs a path and at most 240"):
        path_key(longest + "a")
    with pytest.raises(MetadataError, match="needs a path"):
        path_key("")


def test_a_collision_names_both_files() -> None:
    assert check_unique([("a_0", "x/a.wav"), ("b_0", "b.wav")]) == {"a_0": "x/a.wav", "b_0": "b.wav"}
    with pytest.raises(MetadataError, match=r"^x/Ya\.wav and y/a\.mp3 both are clip a_0"):
        check_unique([("a_0", "x/Ya.wav"), ("b_0", "b.wav"), ("a_0", "y/a.mp3")])
