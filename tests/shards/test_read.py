"""Members read by offset: what is damaged is told, what is the machine's fault passes, descriptors stay bounded."""

import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import google_crc32c
import pytest

from pipeline import IntegrityError
from shards.loader._read import Tars

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def tars(tmp_path: Path) -> list[SimpleNamespace]:
    """Shards whose tars hold CONTENT at an offset of 1000 times their number."""
    shards = []
    for number in range(9):
        path = tmp_path / f"{number:06d}.json"
        path.with_suffix(".tar").write_bytes(bytes(1000 * number) + CONTENT)
        shards.append(SimpleNamespace(path=path, tar_path=path.with_suffix(".tar"), number=number))
    return shards


def read(tars: Tars, shard: SimpleNamespace, start: int = 0, length: int = 300) -> bytes:
    part = CONTENT[start : start + length]
    offset = 1000 * shard.number + start
    return bytes(tars.read(shard, offset, length, google_crc32c.value(part), "a_0"))  # type: ignore[arg-type]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_any_range_of_any_tar_by_many_threads_with_few_descriptors(tars: list[SimpleNamespace]) -> None:
    before = descriptors()
    wrong, open_at_most = _read_by_threads(tars, Tars(most_open=2), before)
    assert not wrong
    assert open_at_most <= 2 + 2 * 4  # what is kept, and by each thread one that it reads and one that it looks at
    assert descriptors() == before


def _read_by_threads(tars: list[SimpleNamespace], reader: Tars, before: int) -> tuple[list[object], int]:
    wrong: list[object] = []
    most = 0

    def use(own: int) -> None:
        nonlocal most
        for turn in range(150):
            shard = tars[(own + turn * 5) % len(tars)]
            start, length = (turn * 37) % 5000, 1 + (turn * turn) % 5000
            try:
                if read(reader, shard, start, length) != CONTENT[start : start + length]:
                    wrong.append((own, turn))
            except (OSError, IntegrityError) as error:
                wrong.append(str(error))
            most = max(most, descriptors() - before)

    threads = [threading.Thread(target=use, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if descriptors() - before > 2:
        wrong.append("descriptors stay open")
    return wrong, most


def test_a_view_is_valid_until_the_same_thread_reads_again(tars: list[SimpleNamespace]) -> None:
    reader = Tars()
    checksum = google_crc32c.value(CONTENT[:100])
    first = reader.read(tars[0], 0, 100, checksum, "a_0")  # type: ignore[arg-type]
    other = threading.Thread(target=read, args=(reader, tars[1], 100, 5000))
    other.start()
    other.join(timeout=60)
    assert first == CONTENT[:100]
    read(reader, tars[2], 0, 10_000)
    assert read(reader, tars[3], 7, 9) == CONTENT[7:16]


@pytest.mark.parametrize("open_before", [False, True])
def test_damage_is_named(tars: list[SimpleNamespace], open_before: bool) -> None:
    reader = Tars()
    if open_before:
        read(reader, tars[1])
    with tars[1].tar_path.open("r+b") as file:
        file.seek(1000 + 150)
        file.write(b"?")
        file.truncate(1000 + 5000)
    with pytest.raises(IntegrityError, match=r"000001\.tar: clip a_0: is not what was written; restore the tar"):
        read(reader, tars[1])
    with pytest.raises(IntegrityError, match=r"000001\.tar: clip a_0: the tar ends in it; restore the tar"):
        read(reader, tars[1], 4900, 300)
    assert read(reader, tars[1], 200, 300) == CONTENT[200:500]


def test_what_is_no_tar_is_named_and_never_waited_for(tars: list[SimpleNamespace]) -> None:
    made = {
        "No such file": lambda path: None,
        "a pipe or a device": os.mkfifo,
        "a folder": os.mkdir,
        "Too many levels of symbolic links": lambda path: os.symlink(path, path),
    }
    for shard, (message, make) in zip(tars, made.items(), strict=False):
        shard.tar_path.unlink()
        make(shard.tar_path)
        before = descriptors()
        with pytest.raises(IntegrityError, match=rf"00000{shard.number}\.tar: cannot be read \(.*{message}"):
            read(Tars(), shard)
        assert descriptors() == before


def test_a_tar_that_is_open_outlives_its_name(tars: list[SimpleNamespace]) -> None:
    reader = Tars()
    read(reader, tars[1])
    tars[1].tar_path.unlink()
    assert read(reader, tars[1], 40, 50) == CONTENT[40:90]
    tars[0].tar_path.rename(tars[1].tar_path)
    assert read(reader, tars[1], 40, 50) == CONTENT[40:90]
    with pytest.raises(IntegrityError, match="is not what was written"):
        read(pickle.loads(pickle.dumps(reader)), tars[1])


def test_trouble_of_the_machine_is_not_the_clips(tars: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Tars()
    read(reader, tars[0])
    tar = reader._open[tars[0].path]
    os.close(tar.descriptor)
    with pytest.raises(OSError, match="Bad file descriptor") as told:
        read(reader, tars[0])
    assert told.value.filename == str(tars[0].tar_path)
    tar.descriptor = os.open(tars[0].tar_path, os.O_RDONLY)  # for its owner to close
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            [read(reader, shard) for shard in tars]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
