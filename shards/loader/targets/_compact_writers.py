"""Writers of a compact batch: each puts one target of one source into a clip's place, as codes or cells if it can."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import HOP_MS
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource
from shards.loader.targets._compact import CompactBatch, CompactLayout, Spans, Stored, table_starts
from shards.loader.targets._hard_targets import HardStrong, HardWeak, Runs
from shards.loader.targets._options import HARD_TARGETS, TargetOptions
from shards.loader.targets._soft import Scratch, SoftTarget
from shards.loader.targets._targets import TargetLayout
from shards.loader.targets._writers import Arrays, Clip, FieldOf, MadeTarget, SoftValues, Writer, made_targets


class Extra:
    """What a clip has besides arrays: runs of cells of its hard targets, and labels that have no codes."""

    __slots__ = ("exact", "runs")

    def __init__(self) -> None:
        self.runs: dict[str, Runs] = {}
        self.exact: dict[str, npt.NDArray[np.float32]] = {}


def compact_fields(layouts: Mapping[str, TargetLayout]) -> dict[str, FieldOf]:
    fields: dict[str, FieldOf] = {"samples": (np.int64, ()), "number": (np.int64, ())}
    fields["present"] = (np.uint8, (len(layouts),))
    for name, layout in layouts.items():
        if layout.coded:
            fields[f"codes/{name}"] = (np.uint16, layout.shape)
            fields[f"table_start/{name}"] = (np.int64, ())
        elif name not in HARD_TARGETS:
            fields[f"target/{name}"] = (np.float32, layout.shape)
    return fields


def compact_writers(
    sources: Sequence[JoinedSource],
    layouts: Mapping[str, TargetLayout],
    options: TargetOptions,
    tars: Tars,
    scratch: Scratch,
) -> tuple[list[list[Writer]], CompactLayout]:
    """The writers of each source, one for each target, and what `gather` has to be given."""
    stored = {name: _stored(name, sources) for name, layout in layouts.items() if layout.coded}
    known = {
        name: np.zeros((len(sources), layout.shape[layout.axes.index("class")]), np.float32)
        for name, layout in layouts.items()
        if layout.per_class
    }
    writers = []
    for number, source in enumerate(sources):
        of_source: list[Writer] = []
        for place, (name, made) in enumerate(made_targets(source, layouts, options, tars)):
            if made is not None and name in known and made.known is not None:
                known[name][number] = made.known
            of_source.append(_writer(place, name, made, layouts[name], source.spec.sample_rate, stored, scratch))
        writers.append(of_source)
    spec = sources[0].spec
    layout = CompactLayout(
        layouts=layouts,
        known=known,
        stored=stored,
        temperature=options.temperature,
        sample_rate=spec.sample_rate,
        frames=-(-spec.clip_ms // HOP_MS),
    )
    return writers, layout


def gather(
    arrays: Arrays,
    extras: Sequence[object | None],
    layout: CompactLayout,
    source: Sequence[str],
    key: Sequence[str],
) -> CompactBatch:
    """The batch in `arrays`, and what `extras` have of each of its clips. Only the latter is copied."""
    of_clip = [(place, extra) for place, extra in enumerate(extras) if isinstance(extra, Extra)]
    coded = [name for name, target in layout.layouts.items() if target.coded]
    return CompactBatch(
        waveform=torch.from_numpy(arrays["waveform"]),
        samples=torch.from_numpy(arrays["samples"]),
        present=torch.from_numpy(arrays["present"]),
        number=torch.from_numpy(arrays["number"]),
        codes={name: torch.from_numpy(arrays[f"codes/{name}"].view(np.int16)) for name in coded},
        table_start={name: torch.from_numpy(arrays[f"table_start/{name}"]) for name in coded},
        exact={name: _exact(of_clip, name, layout.layouts[name].shape) for name in coded},
        spans={name: _spans(of_clip, name, target) for name, target in layout.layouts.items() if name in HARD_TARGETS},
        targets={
            name: torch.from_numpy(arrays[f"target/{name}"])
            for name in layout.layouts
            if name not in HARD_TARGETS and name not in coded
        },
        source=list(source),
        key=list(key),
        layout=layout,
    )


def _stored(name: str, sources: Sequence[JoinedSource]) -> Stored:
    """(kind, codec) of every label of a coded target, each once: label sets may mix codecs."""
    sets = [source.labels[name] for source in sources if name in source.labels]
    return tuple(sorted({(rows.target.kind, shard.codec) for rows in sets for shard in rows.members.shards}))


class _Hard:
    def __init__(
        self, place: int, name: str, hard: HardWeak | HardStrong, layout: TargetLayout, sample_rate: int
    ) -> None:
        self._place, self._name, self._hard = place, name, hard
        self._layout, self._rate = layout, sample_rate

    def write(self, arrays: Arrays, at: Clip) -> None:
        runs = self._hard.runs(at.clip, self._layout.valid_frames(at.samples, self._rate))
        arrays["present"][at.place, self._place] = runs is not None
        if runs is not None:
            _extra(at).runs[self._name] = runs


class _Codes:
    def __init__(self, place: int, name: str, soft: SoftTarget, stored: Stored, scratch: Scratch) -> None:
        self._place, self._name, self._soft, self._scratch = place, name, soft, scratch
        self._codes, self._start = f"codes/{name}", f"table_start/{name}"
        labels, starts = soft.sets[0], table_starts(stored)
        self._start_of = {codec: starts[labels.target.kind, codec] for codec in labels.codecs}

    def write(self, arrays: Arrays, at: Clip) -> None:
        codes = arrays[self._codes][at.place]
        has = self._soft.has(at.clip)
        arrays["present"][at.place, self._place] = has
        if not has:
            codes.fill(0)
            arrays[self._start][at.place] = 0
            return
        arrays[self._start][at.place] = self._start_of[self._soft.sets[0].codec(at.clip)]
        if not self._soft.write_codes(at.clip, at.key, codes, at.stages):
            codes.fill(0)
            exact = np.zeros(codes.shape, np.float32)
            self._soft.write(at.clip, at.key, at.samples, exact, self._scratch, at.stages)
            _extra(at).exact[self._name] = exact


class _Values:
    """A target that a compact batch holds as it is."""

    def __init__(self, place: int, values: SoftValues) -> None:
        self._place, self._values = place, values

    def write(self, arrays: Arrays, at: Clip) -> None:
        arrays["present"][at.place, self._place] = self._values.write(arrays, at) > 0


class _Absent:
    def __init__(self, place: int, name: str, layout: TargetLayout) -> None:
        self._place = place
        self._zeros = [] if name in HARD_TARGETS else [f"target/{name}"]
        if layout.coded:
            self._zeros = [f"codes/{name}", f"table_start/{name}"]

    def write(self, arrays: Arrays, at: Clip) -> None:
        arrays["present"][at.place, self._place] = 0
        for name in self._zeros:
            arrays[name][at.place] = 0


def _writer(
    place: int,
    name: str,
    made: MadeTarget,
    layout: TargetLayout,
    sample_rate: int,
    stored: Mapping[str, Stored],
    scratch: Scratch,
) -> Writer:
    if made is None:
        return _Absent(place, name, layout)
    if isinstance(made, HardWeak | HardStrong):
        return _Hard(place, name, made, layout, sample_rate)
    if layout.coded:
        return _Codes(place, name, made, stored[name], scratch)
    return _Values(place, SoftValues(name, made, layout, sample_rate, scratch))


def _extra(at: Clip) -> Extra:
    if at.extra is None:
        at.extra = Extra()
    extra: Extra = at.extra
    return extra


def _spans(of_clip: Sequence[tuple[int, Extra]], name: str, layout: TargetLayout) -> Spans:
    found = [(place, *extra.runs[name]) for place, extra in of_clip if name in extra.runs]
    if not found:
        return Spans(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 0)
    places, starts, lengths = zip(*found, strict=True)
    before = np.array(places, np.int64) * prod(layout.shape)
    start = np.concatenate(starts, dtype=np.int64) + np.repeat(before, [len(one) for one in starts])
    length = np.concatenate(lengths, dtype=np.int64)
    return Spans(torch.from_numpy(start), torch.from_numpy(length), int(length.sum()))


def _exact(of_clip: Sequence[tuple[int, Extra]], name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    found = [(place, extra.exact[name]) for place, extra in of_clip if name in extra.exact]
    places = np.array([place for place, _ in found], np.int64)
    values = np.stack([label for _, label in found]) if found else np.zeros((0, *shape), np.float32)
    return torch.from_numpy(places), torch.from_numpy(values)
