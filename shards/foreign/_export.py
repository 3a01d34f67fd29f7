"""A label set as PretrainedSED's HDF5, so that training code made for their ensemble's labels runs on ours."""

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import fsdecode
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import (
    FRAMES,
    HOP_MS,
    TargetSpec,
    UsageError,
    atomic_path,
    audioset_strong_447,
    canonical_json,
    key_path,
    projection,
    split_key,
)
from shards._dataset import Dataset, KeyMode
from shards._reader import LabelReader, check_tar_size
from shards._sidecar import LabelSidecar
from shards.foreign._hdf5 import MAX_NAME_BYTES, require_h5py

_FLOAT16_MAX = 65504.0
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """clips = exported + without_label."""

    path: Path
    clips: int
    exported: int

    @property
    def without_label(self) -> int:
        return self.clips - self.exported


def export_labels(
    dataset: Dataset | Path | str,
    split: str,
    labels: str,
    out: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ExportReport:
    """Write frame logits to HDF5 `out`: `filenames`, and `strong_logits` float16 [N, 447, 250], class x time.

    Names are theirs, `Y<YouTube id>.mp3`; for a dataset keyed by path, the paths. Clips without a label are left out.
    Labels of codec `master` arrive bit for bit. `out` is complete or not there.

    Raises UsageError for labels that are not logits of the 447 classes in 40 ms frames, for clips whose names would be
    the same, and if `out` exists.
    """
    h5py = require_h5py()
    opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    where = f"{opened.root}: label set {labels} of split {split}"
    if out.exists():
        raise UsageError(f"{out}: exists already; remove it, or give another --out")
    sidecars = opened.label_shards(split, labels)
    if not sidecars:
        raise UsageError(f"{where} is not there; the split has {', '.join(opened.label_sets(split)) or 'none'}")
    columns = _columns(sidecars, where)
    names = _names(sidecars, opened.keys, where)
    if not names:
        raise UsageError(f"{where} has no label for any clip; label the split first")
    vocabulary = audioset_strong_447()
    _check_space(out, len(names) * (len(vocabulary) * FRAMES * 2 + MAX_NAME_BYTES))
    try:
        with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["origin"] = canonical_json(_origin(sidecars, split, labels))
            # Fixed width, without times: the same labels give the same bytes.
            file.create_dataset("filenames", data=np.array(names, dtype=np.bytes_), track_times=False)
            shape = (len(names), len(vocabulary), FRAMES)
            logits = file.create_dataset("strong_logits", shape=shape, dtype="<f2", track_times=False)
            for row, label in enumerate(_labels(sidecars, columns, where)):
                logits[row] = label
                progress("writing clips", row + 1, len(names))
    except RuntimeError as error:  # what h5py makes of a disk that fills up
        raise OSError(f"{out}: cannot be written ({' '.join(str(error).split())[:200]})") from error
    return ExportReport(path=out, clips=sum(len(side.clips) for side in sidecars), exported=len(names))


def _check_space(out: Path, needed: int) -> None:
    """HDF5 reports a disk that fills up while it writes, but can crash on one that is full from the start."""
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free >> 20} MB are free, {needed >> 20} MB are needed; make room", str(out))


def _columns(sidecars: tuple[LabelSidecar, ...], where: str) -> npt.NDArray[np.int64]:
    """For each of the 447 classes its place on the class axis."""
    targets = {side.target for side in sidecars}
    target: TargetSpec = sidecars[0].target
    frames = len(targets) == 1 and set(target.axes) == {"class", "time"} and target.frames == FRAMES
    if not frames or target.hop_ms != HOP_MS or target.kind != "logit":
        has = f"{target.kind} with axes {target.axes}, hop {target.hop_ms} ms, {target.frames} frames"
        raise UsageError(
            f"{where} holds {has}; PretrainedSED's file is of frame logits, {FRAMES} frames of {HOP_MS} ms: "
            "export a label set of those"
        )
    vocabulary = audioset_strong_447()
    shared = set(target.classes.mids) & set(vocabulary.mids)
    if not len(target.classes) == len(vocabulary) == len(shared):
        raise UsageError(
            f"{where} has {len(target.classes)} classes, {len(shared)} of them among the {len(vocabulary)} of "
            "PretrainedSED's file, which needs exactly those; export a label set that has them"
        )
    return projection(target.classes, vocabulary, strict=True)


def _names(sidecars: tuple[LabelSidecar, ...], mode: KeyMode, where: str) -> list[bytes]:
    """The name of every clip that has a label, in the order of the shards."""
    key_of: dict[bytes, str] = {}
    for side in sidecars:
        for key, length in zip(side.clips.key, side.clips.length, strict=True):
            if not length:
                continue
            stem, _ = split_key(key)
            name = f"Y{stem}.mp3".encode() if mode == "audioset" else key_path(key)[0]
            if name in key_of:
                raise UsageError(
                    f"{where} has clips {key_of[name]} and {key}, which both would be named {fsdecode(name)}: "
                    "their file has one clip of a recording; leave one of them out"
                )
            if len(name) > MAX_NAME_BYTES or name.endswith(b"\0"):
                raise UsageError(f"{where} has clip {key}, whose path cannot be a name in HDF5; rename it")
            key_of[name] = key
    return list(key_of)


def _labels(
    sidecars: tuple[LabelSidecar, ...], columns: npt.NDArray[np.int64], where: str
) -> Iterator[npt.NDArray[np.float16]]:
    """Float16 [447, 250] of every clip that has a label, in the order of the shards."""
    in_order = bool((columns == np.arange(len(columns))).all())
    for side in sidecars:
        check_tar_size(side)
        with LabelReader(side) as reader:
            for row, key in enumerate(side.clips.key):
                if not side.clips.length[row]:
                    continue
                label = reader.read(row)
                if side.target.axes == ("time", "class"):
                    label = label.T
                if not in_order:
                    label = label[columns]
                if np.abs(label).max() > _FLOAT16_MAX:
                    raise UsageError(f"{where} has logits beyond {_FLOAT16_MAX:.0f} for clip {key}; label it again")
                yield label.astype(np.float16)


def _origin(sidecars: tuple[LabelSidecar, ...], split: str, labels: str) -> dict[str, object]:
    return {
        "format": "sed-distill/export",
        "version": 1,
        "split": split,
        "labels": labels,
        "codecs": sorted({side.codec for side in sidecars}),
        "fingerprints": sorted({side.fingerprint for side in sidecars}),
        "vocabulary": audioset_strong_447().sha256,
    }
