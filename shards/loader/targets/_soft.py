"""From the members of label sets to one soft target of a clip: decode, average, project onto classes, regrid.

Mostly a target is one label set whose classes are the loader's: then its label is decoded straight into the batch.
Everything else goes through memory of the thread's own, once as large as a label and used again for each clip.
"""

import threading
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import ClassColumns, ClassMap, TargetSpec, project_many, regrid
from shards._index import IndexedShard
from shards.codecs._kernels import LabelValues, decode_label_into, label_values
from shards.loader._metrics import Stages
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource, LabelRows
from shards.loader.targets._options import AverageDomain, TargetOptions
from shards.loader.targets._targets import AskedTarget, class_map_of, is_of_classes, is_regridded, single_rows

Values = npt.NDArray[np.float32]


class Where:
    """Names a clip in an error; costs nothing until there is one."""

    __slots__ = ("_key", "_shard")

    def __init__(self, shard: IndexedShard, key: str) -> None:
        self._shard, self._key = shard, key

    def __str__(self) -> str:
        return f"{self._shard.tar_path}: clip {self._key}"


class Scratch(threading.local):
    """Memory of a thread for values on their way, by what they are."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, tuple[int, ...]], Values] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> Values:
        found = self._arrays.get((name, shape))
        if found is None:
            found = self._arrays[name, shape] = np.zeros(shape, np.float32)
        return found


class LabelSet:
    """One label set of a source, read by clip."""

    def __init__(self, rows: LabelRows, tars: Tars, *, what: AverageDomain, temperature: float) -> None:
        """what: what is read of it, "probability" at `temperature` or "logit"."""
        self.target = rows.target
        self.codecs = sorted({shard.codec for shard in rows.members.shards})
        self._members, self._tars = rows.members, tars
        self._shape, self._kind = rows.target.shape, rows.target.kind
        self._values: dict[str, LabelValues] = {
            codec: label_values(self._kind, codec, what=what, temperature=temperature) for codec in self.codecs
        }
        self._codes = {codec: label_values(self._kind, codec, what="code") for codec in self.codecs}

    def has(self, clip: int) -> bool:
        return bool(self._members.shard[clip] >= 0)

    def codec(self, clip: int) -> str:
        shard: IndexedShard = self._members.shards[self._members.shard[clip]]
        return shard.codec

    def decode(
        self,
        clip: int,
        key: str,
        out: npt.NDArray[Any],
        rows: npt.NDArray[np.int64] | None,
        stages: Stages,
        *,
        codes: bool = False,
    ) -> bool:
        """The label of a clip that has one, or of it `rows`, into `out`. False: it has no codes, nothing is written.

        Raises IntegrityError or FormatError.
        """
        members = self._members
        shard = members.shards[members.shard[clip]]
        began = perf_counter()
        content = self._tars.read(
            shard, int(members.offset[clip]), int(members.length[clip]), int(members.crc32c[clip]), key
        )
        stages.read_s += perf_counter() - began
        values = (self._codes if codes else self._values)[shard.codec]
        return decode_label_into(
            content, self._shape, self._kind, shard.codec, values, out, Where(shard, key), rows=rows
        )


class SoftTarget:
    """What makes one target of one source.

    known: bool [C], classes that its label sets have; None for targets of other axes, which are as their set has them.
    """

    def __init__(self, source: JoinedSource, asked: AskedTarget, options: TargetOptions, tars: Tars) -> None:
        spec = source.labels[asked.of[0]].target
        averages_logits = len(asked.of) > 1 and asked.domain == "logit"
        self.sets = [
            LabelSet(
                source.labels[name],
                tars,
                what="logit" if averages_logits else "probability",
                temperature=1.0 if averages_logits else options.temperature,
            )
            for name in asked.of
        ]
        self._shares = [np.float32(share) for share in asked.shares]
        self._sigmoid_at = np.float32(options.temperature) if averages_logits else None
        self._turned = is_of_classes(spec) and spec.axes[0] == "time"
        self._grid = options.grid if is_regridded(spec, options) else None
        self._spec, self._rate = spec, source.spec.sample_rate
        self.known: npt.NDArray[np.bool_] | None = None
        # Row rows[i] of a label is read as row i (-1: none; None: all, in their order). Where classes are not one to
        # one, `many` says what of these rows makes each.
        self._rows: npt.NDArray[np.int64] | None = None
        self._absent: npt.NDArray[np.int64] | None = None
        self._many: ClassColumns | None = None
        if is_of_classes(spec):
            self._choose_columns(spec, class_map_of(options))

    def _choose_columns(self, spec: TargetSpec, classes: ClassMap) -> None:
        columns = classes.columns(spec.classes)
        self.known = columns.known
        single = single_rows(spec, classes)
        if single is None:
            # Only the rows that a class is made of are decoded.
            self._rows, places = np.unique(columns.columns, return_inverse=True)
            self._many = ClassColumns(columns.bounds, places.astype(np.int64), columns.rule)
        elif not np.array_equal(single, np.arange(len(spec.classes))):
            self._rows = single
            self._absent = None if self.known.all() else np.flatnonzero(~self.known)

    @property
    def _direct(self) -> bool:
        """Whether a label is decoded into the target itself."""
        return len(self.sets) == 1 and not self._turned and self._grid is None and self._many is None

    def has(self, clip: int) -> bool:
        """Whether all label sets that it is made of have a label of the clip."""
        return all(one.has(clip) for one in self.sets)

    def write(self, clip: int, key: str, samples: int, out: Values, scratch: Scratch, stages: Stages) -> None:
        """The target of a clip that has it into `out`; of frames that stand on no audio, anything.

        Raises IntegrityError or FormatError.
        """
        if self._direct:
            self.sets[0].decode(clip, key, out, self._rows, stages)
            self._clear_absent(out)
            return
        values = self._averaged(clip, key, scratch, stages)
        if self._many is not None:
            on_label_grid = out if self._grid is None else scratch.array("projected", (len(out), *values.shape[1:]))
            project_many(values, self._many, on_label_grid)
            values = on_label_grid
        if self._grid is not None:
            valid = self._spec.valid_frames(samples, self._rate)
            regrid(values, self._spec.hop_ms or 1, self._grid, out, valid=valid)
        elif values is not out:
            np.copyto(out, values)
        self._clear_absent(out)

    def write_codes(self, clip: int, key: str, out: npt.NDArray[np.uint16], stages: Stages) -> bool:
        """The codes of a clip's label into `out`, where the layout is `coded`. False: it has none."""
        written = self.sets[0].decode(clip, key, out, self._rows, stages, codes=True)
        self._clear_absent(out)
        return written

    def _averaged(self, clip: int, key: str, scratch: Scratch, stages: Stages) -> Values:
        """Of the label sets' average the rows that are read: [row] or [row, time], in memory of the thread."""
        total = self._read(0, clip, key, scratch, stages)
        if len(self.sets) == 1:
            return total
        total *= self._shares[0]
        for number in range(1, len(self.sets)):
            values = self._read(number, clip, key, scratch, stages)
            values *= self._shares[number]
            total += values
        if self._sigmoid_at is not None:
            total /= self._sigmoid_at
            # exp overflows to infinity below logit -88, whose reciprocal is the 0 that is meant.
            with np.errstate(over="ignore"):
                np.negative(total, out=total)
                np.exp(total, out=total)
            total += 1
            np.reciprocal(total, out=total)
        return total

    def _read(self, number: int, clip: int, key: str, scratch: Scratch, stages: Stages) -> Values:
        slot = "sum" if number == 0 else "summand"
        shape = self._spec.shape
        if self._turned:
            stored = scratch.array(slot, shape)
            self.sets[number].decode(clip, key, stored, None, stages)
            values: Values = stored.T if self._rows is None else stored.T[self._rows]  # row -1 is cleared in the end
        else:
            values = scratch.array(slot, shape if self._rows is None else (len(self._rows), *shape[1:]))
            self.sets[number].decode(clip, key, values, self._rows, stages)
        return values

    def _clear_absent(self, out: npt.NDArray[Any]) -> None:
        if self._absent is not None:
            out[self._absent] = 0
