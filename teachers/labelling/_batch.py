"""Clips of one batch on their way: audio in, logits, bytes of the label. Each clip keeps its place in it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline import FormatError, IntegrityError
from shards import AudioReader, LabelRefused, LabelShardWriter, decode_audio_into
from teachers.labelling._seconds import Seconds

# Clips that a thread takes at once: fewer, and handing them out costs as much as the work.
_PART = 4


class Batch:
    """Memory for up to `size` clips, used again and again. Clip `rows[i]` of the shard is in place i.

    waveforms: float32 [size, samples of a full clip], zero where there is no audio.
    logits: float32 [size, *shape] in host memory; theirs once the teacher has heard them.
    samples: true length of each clip; 0 for places that are not in use.
    unreadable: why the audio of a row cannot be had.
    running: what a device keeps of the batch while it has it.
    """

    def __init__(self, size: int, max_samples: int, shape: tuple[int, ...], *, pinned: bool) -> None:
        self.waveforms = torch.empty((size, max_samples), pin_memory=pinned)
        self.logits: Tensor = torch.empty((size, *shape), pin_memory=pinned)
        self.samples = [0] * size
        self.rows = range(0)
        self.unreadable: dict[int, str] = {}
        self.running: Any = None

    def begin(self, rows: range) -> None:
        self.rows = rows
        self.samples = [0] * len(self.waveforms)
        self.unreadable = {}
        self.waveforms[len(rows) :] = 0

    def parts(self) -> Iterator[range]:
        """`rows` in portions for threads."""
        return (self.rows[start : start + _PART] for start in range(0, len(self.rows), _PART))

    def read(self, reader: AudioReader, rows: range, seconds: Seconds) -> None:
        """Read, check and decode some of `rows` to their places. A clip that is damaged costs that clip."""
        side = reader.sidecar
        waveforms = self.waveforms.numpy()
        for row in rows:
            place, samples = row - self.rows.start, side.clips.samples[row]
            waveform = waveforms[place]
            where = f"{side.tar_path}: clip {side.clips.key[row]}"
            try:
                with seconds.of("read"):
                    content = reader.read_bytes(row)
                with seconds.of("decode"):
                    decode_audio_into(content, side.spec, samples, side.codec, waveform, where)
                    waveform[samples:] = 0
                self.samples[place] = samples
            except (IntegrityError, FormatError) as error:
                self.unreadable[row] = str(error)
                waveform[:] = 0

    def encode(self, writer: LabelShardWriter, rows: range, seconds: Seconds) -> list[bytes | LabelRefused]:
        """The members of some of `rows`, or why there can be none; of unreadable clips anything."""
        logits = self.logits.numpy()
        members: list[bytes | LabelRefused] = []
        with seconds.of("encode"):
            for row in rows:
                try:
                    members.append(b"" if row in self.unreadable else writer.encode(logits[row - self.rows.start]))
                except LabelRefused as refused:
                    members.append(refused)
        return members
