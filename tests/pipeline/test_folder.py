"""Folders with everything in them that real ones have."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ClipRejected, FolderEntry, UsageError, clip_starts, decode, scan_folder

ODD_NAMES = [
    b"-start.wav",
    b"\xff\xfe\x80.wav",
    b"a\nb.wav",
    b"quo'te\".wav",
    b"no suffix",
    b"UPPER.WAV",
    b"%41.wav",
    b"\xc3\xa9.wav",
]


def fill(folder: Path, *names: str | bytes, content: bytes = b"x") -> None:
    for name in names:
        path = Path(os.fsdecode(name)) if isinstance(name, bytes) else Path(name)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def paths(folder: Path) -> list[str]:
    return [entry.path for entry in scan_folder(folder)]


def test_recursive_in_byte_order_with_sizes(tmp_path: Path) -> None:
    fill(tmp_path, "b/c.wav", "b.wav", "a/z.flac", "B.wav", "b/a/x.mp3", content=b"12345")
    assert scan_folder(tmp_path) == [
        FolderEntry(path, 5) for path in ("B.wav", "a/z.flac", "b.wav", "b/a/x.mp3", "b/c.wav")
    ]


def test_odd_names_are_data(tmp_path: Path) -> None:
    fill(tmp_path, *ODD_NAMES)
    entries = scan_folder(tmp_path)
    assert [entry.raw for entry in entries] == sorted(ODD_NAMES)
    for entry in entries:
        with pytest.raises(ClipRejected) as caught:  # found under that name, and only then refused
            decode(tmp_path / entry.path)
        assert caught.value.reason == "unreadable"


def test_hidden_and_side_files_are_left_out(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "clip.wav",
        ".hidden.wav",
        ".git/x.wav",
        "labels.csv",
        "events.TSV",
        "notes.md",
        "a/index.parquet",
        "x.m3u8",
    )
    assert paths(tmp_path) == ["clip.wav"]


def test_links(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    fill(elsewhere, "far.wav", "deep/lost.wav", content=b"123")
    fill(folder, "near.wav", "sub/x.wav")
    (folder / "to_file.wav").symlink_to(elsewhere / "far.wav")
    (folder / "to_near.wav").symlink_to("near.wav")
    (folder / "to_folder").symlink_to(elsewhere)
    (folder / "to_folder.wav").symlink_to(elsewhere)
    (folder / "sub/up").symlink_to(folder)
    (folder / "broken.wav").symlink_to("nowhere")
    (folder / "circle.wav").symlink_to("circle.wav")
    os.mkfifo(folder / "pipe.wav")
    found = {entry.path: entry.size_bytes for entry in scan_folder(folder)}
    assert found == {
        "near.wav": 1,
        "sub/x.wav": 1,
        "to_file.wav": 3,
        "to_near.wav": 1,
        "broken.wav": 0,
        "circle.wav": 0,
    }
    with pytest.raises(ClipRejected, match="missing"):
        decode(folder / "broken.wav")
    with pytest.raises(ClipRejected, match="missing"):
        decode(folder / "circle.wav")


def test_the_same_folder_through_another_spelling_gives_the_same_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "folder", "a/b.wav", "c.wav")
    monkeypatch.chdir(tmp_path)
    for spelling in ("folder", "./folder", "folder/", "folder/a/.."):
        assert paths(Path(spelling)) == ["a/b.wav", "c.wav"]


def test_a_folder_without_recordings_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="name the folder that holds"):
            scan_folder(folder)
    fill(tmp_path, "labels.csv", ".hidden")
    with pytest.raises(UsageError, match="2 hidden and side files ignored, 0 links to folders"):
        scan_folder(tmp_path)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="1 links to folders not followed"):
        scan_folder(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        scan_folder(tmp_path / "labels.csv")


def test_a_subfolder_that_cannot_be_listed_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.wav", "locked/b.wav")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match="locked"):
        scan_folder(tmp_path)


def test_clip_starts_by_example() -> None:
    assert clip_starts(9_000, 10_000) == clip_starts(10_000, 10_000) == clip_starts(10_039, 10_000) == [0]
    assert clip_starts(10_040, 10_000) == clip_starts(20_000, 10_000) == [0, 10_000]
    assert clip_starts(25_000, 10_000) == [0, 10_000, 20_000]
    assert clip_starts(0, 10_000) == clip_starts(39, 10_000) == [0]
    for duration_ms, clip_ms in ((-1, 10_000), (1000, 39)):
        with pytest.raises(UsageError):
            clip_starts(duration_ms, clip_ms)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200_000), st.integers(40, 12_000))
def test_clips_cover_a_recording_but_for_less_than_a_frame(duration_ms: int, clip_ms: int) -> None:
    starts = clip_starts(duration_ms, clip_ms)
    lengths = [min(clip_ms, duration_ms - start) for start in starts]
    assert starts == [clip_ms * number for number in range(len(starts))]
    assert 0 <= duration_ms - sum(lengths) < 40
    assert all(length >= 40 for length in lengths[1:])
