"""From the clips of joined sources to the places of a batch's memory: read, check, decode and write, by many threads.

What a clip costs is decided once: each source has for each target of the batch a writer that knows where its labels
lie and how they become the target. A thread that fills a place reads the clip's audio and labels, decodes them into the
batch and writes zeros where there is nothing.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline import HOP_MS, valid_frames
from shards.codecs._kernels import decode_audio_into
from shards.loader._batch import Batch
from shards.loader._memory import Field
from shards.loader._metrics import Stages
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource
from shards.loader.targets._compact import CompactBatch, CompactLayout
from shards.loader.targets._compact_writers import compact_fields, compact_writers, gather
from shards.loader.targets._options import TargetOptions
from shards.loader.targets._soft import Scratch, Where
from shards.loader.targets._targets import common_spec, target_layouts
from shards.loader.targets._writers import Clip, dense_fields, dense_writers

Arrays = Mapping[str, npt.NDArray[Any]]


class Filler:
    """Writes clips of `sources` into batch memory, from any number of threads. Can be pickled.

    fields: the arrays that a batch's memory has to hold, each with an axis for the clips before its shape.
    """

    fields: Mapping[str, Field]

    def __init__(self, sources: Sequence[JoinedSource], options: TargetOptions, tars: Tars) -> None:
        """Raises UsageError if sources cannot stand in one batch: other audio, label sets of other shapes."""
        self._made_of = (tuple(sources), options, tars)
        self._sources, _, self._tars = self._made_of
        self._spec = common_spec(sources)
        self._frames = -(-self._spec.clip_ms // HOP_MS)
        self._layouts = target_layouts(sources, options)
        self._scratch = Scratch()
        self._compact: CompactLayout | None = None
        mono = self._spec.channels == 1
        wave = (self._spec.max_samples,) if mono else (self._spec.channels, self._spec.max_samples)
        if options.compact:
            self._writers, self._compact = compact_writers(self._sources, self._layouts, options, tars, self._scratch)
            given = {"waveform": (np.int16, wave), **compact_fields(self._layouts)}
        else:
            self._writers = dense_writers(self._sources, self._layouts, options, tars, self._scratch)
            given = {"waveform": (np.float32, wave), "valid_frames": (np.int64, ()), **dense_fields(self._layouts)}
        self.fields = {name: Field(np.dtype(dtype), shape) for name, (dtype, shape) in given.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"made_of": self._made_of}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["made_of"])  # type: ignore[misc]

    def fill(self, arrays: Arrays, place: int, source_number: int, clip: int, stages: Stages) -> object | None:
        """Put clip `clip` of a source into `arrays` at `place`, over whatever is there.

        Returns what `batch` has to be given for this place. Raises IntegrityError or FormatError if the clip's audio or
        one of its labels is damaged; the place is then neither one clip nor another.
        """
        source = self._sources[source_number]
        at = Clip(place, clip, source.key(clip), int(source.samples[clip]), stages)
        self._fill_audio(arrays["waveform"][place], source, at)
        if self._compact is None:
            arrays["valid_frames"][place] = valid_frames(at.samples, self._spec.sample_rate, frames=self._frames)
        else:
            arrays["samples"][place] = at.samples
            arrays["number"][place] = source_number
        began, read_s = perf_counter(), stages.read_s
        for writer in self._writers[source_number]:
            writer.write(arrays, at)
        stages.labels_s += perf_counter() - began - (stages.read_s - read_s)
        extra: object | None = at.extra
        return extra

    def batch(
        self, arrays: Arrays, extras: Sequence[object | None], source: Sequence[str], key: Sequence[str]
    ) -> Batch | CompactBatch:
        """The batch that stands in `arrays`, as views of it. extras: what `fill` returned, by place."""
        if self._compact is not None:
            return gather(arrays, extras, self._compact, source, key)
        tensors = {name: torch.from_numpy(arrays[name]) for name in self.fields}
        return Batch(
            waveform=tensors["waveform"],
            targets={name: tensors[f"target/{name}"] for name in self._layouts},
            weight={name: tensors[f"weight/{name}"] for name in self._layouts},
            valid_frames=tensors["valid_frames"],
            source=list(source),
            key=list(key),
            sample_rate=self._spec.sample_rate,
            axes={name: layout.axes for name, layout in self._layouts.items()},
            hop_ms={name: layout.hop_ms for name, layout in self._layouts.items() if layout.hop_ms is not None},
        )

    def _fill_audio(self, waveform: npt.NDArray[Any], source: JoinedSource, at: Clip) -> None:
        members = source.audio
        shard = members.shards[members.shard[at.clip]]
        began = perf_counter()
        content = self._tars.read(
            shard, int(members.offset[at.clip]), int(members.length[at.clip]), int(members.crc32c[at.clip]), at.key
        )
        read = perf_counter()
        if at.samples < waveform.shape[-1]:
            waveform[..., at.samples :] = 0
            waveform = waveform[..., : at.samples]
        decode_audio_into(content, self._spec, at.samples, shard.codec, waveform, Where(shard, at.key))
        at.stages.read_s += read - began
        at.stages.audio_s += perf_counter() - read
