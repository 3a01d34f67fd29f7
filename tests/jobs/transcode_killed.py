"""Transcoding that is killed or meets a full disk, in forked processes: transcode_killed.py SOURCE SCRATCH STRIDE.

Kills at every STRIDE-th point. Prints JSON: at how many it was killed, and what was wrong afterwards.
"""

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# What children need, loaded once: they are forked.
import numcodecs.blosc  # noqa: F401
import pyarrow.parquet  # noqa: F401

import shards.codecs._audio_fast
from jobs import run_stage, transcode_stages
from shards import AudioReader, AudioShardWriter, read_label_sidecar

CLIPS_PER_SHARD = 4
LOADED = (run_stage, transcode_stages, AudioReader, AudioShardWriter, read_label_sidecar)


def main(source: Path, scratch: Path, stride: int) -> None:
    expected = _expected(source, scratch / "undisturbed")
    wrong: list[str] = []
    points = 0
    for codec_calls in (False, True):  # killed before a rename, or amid a clip
        for point in range(1, 1_000, stride):
            out = scratch / f"killed-{codec_calls}-{point}"
            code = in_child(lambda out=out, point=point, calls=codec_calls: (_kill_at(point, calls), copy(source, out)))
            if code == 0:
                break
            points += 1
            if code != -signal.SIGKILL:
                wrong.append(f"{out.name}: ended with {code}")
            wrong += _unlike(out, expected, partial=True)
            if in_child(lambda out=out: copy(source, out)):
                wrong.append(f"{out.name}: does not go on")
            wrong += _unlike(out, expected, partial=False)
            shutil.rmtree(out)
    once_more = scratch / "killed-again-and-again"
    for point in range(1, 1_000):
        if in_child(lambda point=point: (_kill_at(2 + point % 4, False), copy(source, once_more))) == 0:
            break
    in_child(lambda: copy(source, once_more))
    wrong += _unlike(once_more, expected, partial=False)
    full = scratch / "full"
    for limit in (1, 5_000):
        if in_child(lambda limit=limit: (_limit(limit), copy(source, full))) == 0:
            wrong.append(f"did not mind files of at most {limit} bytes")
        wrong += _unlike(full, expected, partial=True)
    if in_child(lambda: copy(source, full)):
        wrong.append("does not go on after the disk was full")
    wrong += _unlike(full, expected, partial=False)
    print(json.dumps({"points": points, "wrong": wrong}))


def copy(source: Path, out: Path) -> None:
    stages = transcode_stages(dataset=source, out=out, codec="fast", clips_per_shard=CLIPS_PER_SHARD)
    for stage in stages:
        if run_stage(stage, executor="local", progress=False).exit_code:
            raise SystemExit(1)


def in_child(work: Callable[[], object]) -> int:
    """0, 1 where it ends with an error, or minus the signal that ended it. The parent has no threads to lose."""
    os.fsync = lambda descriptor: None  # SIGKILL takes nothing from the kernel; disks are slow
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but those that tell of runs and the cache."""
    others = ("report.json", "commands.json", "index.arrow")
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in others)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _expected(source: Path, out: Path) -> dict[str, bytes]:
    if in_child(lambda: copy(source, out)):
        raise SystemExit("an undisturbed run fails")
    return tree(out)


def _unlike(out: Path, expected: dict[str, bytes], *, partial: bool) -> list[str]:
    """Differences from the undisturbed copy. partial: files may be missing, and what commits nothing may differ."""
    found = {name: content for name, content in tree(out).items() if not (partial and ".partial-" in name)}
    differing = {name for name in found.keys() | expected if found.get(name) != expected.get(name)}
    if partial:
        differing = {name for name in differing if name in found}
        # A tar without its sidecar does not exist.
        differing = {name for name in differing if not name.endswith(".tar") or f"{name[:-4]}.json" in found}
    return [f"{out.name}: {name}" for name in sorted(differing)]


def _kill_at(point: int, codec_calls: bool) -> None:
    """Make the `point`-th rename, or the `point`-th clip decoded again, the last thing this process begins."""
    owner, name = (shards.codecs._audio_fast, "decode") if codec_calls else (Path, "replace")
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, counted)


def _limit(file_bytes: int) -> None:
    """What a full disk does to whoever writes, for a process of any user: no file grows beyond this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
