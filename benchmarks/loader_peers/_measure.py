"""What runs in a process of its own: one loader is timed, or its batches are compared with what was stored."""

import itertools
import os
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loader_peers._clips import Clips
from shards import guarantee

WARM_BATCHES = 8
"""Workers have started, buffers and queues are full."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measured(loader: Any, folder: Path, workers: int, batches: int) -> dict[str, float]:
    """{wall_s, cpu_s, clips} of `batches` batches in the middle of a run, CPU time over all processes."""
    with closing(loader.batches(folder, workers)) as source:
        deque(itertools.islice(source, WARM_BATCHES), maxlen=0)  # none is kept: its memory is to be used again
        started_s, cpu_s, clips = time.perf_counter(), tree_cpu_s(), 0
        for batch in itertools.islice(source, batches):
            clips += _size(batch)
        cpu_s, wall_s = tree_cpu_s() - cpu_s, time.perf_counter() - started_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "clips": clips}


def checked(loader: Any, folder: Path, workers: int, clips: Clips) -> dict[str, float]:
    """{clips, delivered} after as many batches as hold every clip three times: different clips seen, and all of them.

    Raises ValueError for a clip whose waveform or label is not that of its key.
    """
    seen: set[int] = set()
    delivered = 0
    with closing(loader.batches(folder, workers)) as source:
        while delivered < 3 * clips.count:
            batch = next(source)
            waveforms, labels, keys = loader.opened(batch) if hasattr(loader, "opened") else batch
            for waveform, label, key in zip(waveforms, labels, keys, strict=True):
                _check(loader, clips, clips.number(key), waveform.numpy(), label.numpy())
                seen.add(clips.number(key))
                delivered += 1
    return {"clips": len(seen), "delivered": delivered}


def tree_cpu_s() -> float:
    """CPU time so far of this process, its living descendants, and those of them that ended and were waited for."""
    parents: dict[int, list[int]] = {}
    ended_s: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        process = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(process)
        ended_s[process] = (int(fields[13]) + int(fields[14])) * _TICK_S
    total_s, open_ = 0.0, [os.getpid()]
    while open_:
        process = open_.pop()
        open_ += parents.get(process, [])
        try:
            # The CPU clock of another process, as clock_getcpuclockid(3) spells it: in ns, where /proc counts ticks.
            total_s += time.clock_gettime((~process << 3) | 2) + ended_s.get(process, 0.0)
        except OSError:
            continue
    return total_s


def _size(batch: Any) -> int:
    return len(batch[2]) if isinstance(batch, tuple | list) else len(batch.key)


def _check(loader: Any, clips: Clips, number: int, waveform: np.ndarray, label: np.ndarray) -> None:
    pcm = clips.pcm(number) / np.float32(32_768)
    if waveform.dtype != np.float32 or waveform.shape != pcm.shape:
        raise ValueError(f"clip {number}: waveform is {waveform.dtype} {waveform.shape}")
    if getattr(loader, "LOSSY_AUDIO", False):
        same = np.corrcoef(waveform, pcm)[0, 1] > 0.9
    else:
        same = np.array_equal(waveform, pcm)
    if not same:
        raise ValueError(f"clip {number}: its waveform is another's")
    logits = clips.logits(number).astype(np.float32)
    if label.dtype != np.float32 or label.shape != logits.shape:
        raise ValueError(f"clip {number}: label is {label.dtype} {label.shape}")
    if getattr(loader, "VALUES", "logit") == "probability":
        lossy = loader.labels in ("small", "faithful")
        tolerance = guarantee(loader.labels).max_probability_error[1] if lossy else 0.0
        same = np.abs(label - 1 / (1 + np.exp(-logits))).max() <= tolerance + 1e-6
    else:
        same = np.array_equal(label, logits)
    if not same:
        raise ValueError(f"clip {number}: its label is another's")
