"""A clip is stored in one split: what to do about clips that another split of the dataset has."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs._wanted import Wanted
from pipeline import UsageError, one_chunk
from shards import MANIFEST_NAME, Dataset, manifest_keys


def without_other_splits(dataset: Dataset, split: str, wanted: Wanted) -> tuple[Wanted, int]:
    """`wanted` without the clips that other splits have, and how many these are.

    Only weak of an AudioSet dataset is relieved of clips: its lists name the strong, dev and eval clips too. Elsewhere
    a clip in two splits is a mistake, or two recordings of one name, and raises UsageError.
    """
    keys = one_chunk(wanted.hard.column("key"))
    left_out: set[str] = set()
    for other in dataset.splits():
        for spec_name in dataset.audio_specs(other) if other != split else ():
            path = dataset.audio_folder(other, spec_name) / MANIFEST_NAME
            if not path.exists():
                continue
            shared: list[str] = keys.filter(pc.is_in(keys, value_set=manifest_keys(path))).to_pylist()
            if shared and (split != "weak" or dataset.keys != "audioset"):
                remedy = (
                    "pack strong, dev and eval into a new dataset first, weak leaves out what they have"
                    if dataset.keys == "audioset"
                    else "give the recordings of each split a folder of their own name and pack the folder above"
                )
                raise UsageError(
                    f"{dataset.root}: split {other} has {len(shared)} of the clips of {split} ({shared[0]} first), "
                    f"a clip is stored in one split: {remedy}"
                )
            left_out.update(shared)
    if not left_out:
        return wanted, 0
    kept = pc.invert(pc.is_in(keys, value_set=pa.array(sorted(left_out), pa.string())))
    rows = tuple(row for row in wanted.rows if row.key not in left_out)
    return replace(wanted, rows=rows, hard=wanted.hard.filter(kept)), len(left_out)
