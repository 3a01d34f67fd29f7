"""A batch as small as it comes off the disk: int16 audio, codes of labels, events; it is expanded on the device.

Expanded on a CPU it is the batch that the loader gives without `compact`, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import HOP_MS
from shards.codecs._kernels import table_of
from shards.loader._batch import Batch, Mover
from shards.loader.targets._targets import TargetLayout

Stored = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CompactLayout:
    """What all batches of a loader share; small, as every batch of a worker process brings it along.

    known: target name -> float32 [sources, C], 1 for classes that a source has, where weights have an axis for them.
    stored: coded target -> (kind, codec) of the label sets it is made of, whose tables lie one behind the other.
    frames: of 40 ms in a whole clip.
    """

    layouts: Mapping[str, TargetLayout]
    known: Mapping[str, npt.NDArray[np.float32]]
    stored: Mapping[str, Stored]
    temperature: float
    sample_rate: int
    frames: int

    def table(self, name: str, device: torch.device) -> Tensor:
        """What the codes of a target stand for: float32, on `device`, made once."""
        return _table(self.stored[name], self.temperature, device)


def table_starts(stored: Stored) -> dict[tuple[str, str], int]:
    """(kind, codec) -> where its table begins."""
    sizes = [len(table_of(codec)) for _, codec in stored]
    return dict(zip(stored, accumulate(sizes, initial=0), strict=False))


@lru_cache(maxsize=64)
def _table(stored: Stored, temperature: float, device: torch.device) -> Tensor:
    tables = [table_of(codec, "probability", temperature, kind=kind) for kind, codec in stored]
    return torch.from_numpy(np.concatenate(tables)).to(device)


class Spans(NamedTuple):
    """Runs of cells of a flattened target: the first cell of each and how many it has, int64 [E]; cells of all runs."""

    start: Tensor
    length: Tensor
    cells: int

    def numbers(self) -> Tensor:
        """The number of every cell, int64 [cells], run by run. Nothing is asked of the device."""
        before = self.length.cumsum(0) - self.length
        shift = torch.repeat_interleave(self.start - before, self.length, output_size=self.cells)
        return shift + torch.arange(self.cells, device=self.start.device)


@dataclass(kw_only=True, eq=False)
class CompactBatch:
    """One batch of B clips, for `.to(device).expand()`.

    waveform: int16 [B, N], or [B, 4, N]. samples: int64 [B], per channel; behind them the waveform is 0.
    present: uint8 [B, targets], 1 where a clip has a target, in the order of `layout.layouts`.
    codes: target name -> int16 [B, C] or [B, C, T], whose bits are an unsigned place in the target's table, from
        table_start[name] on, int64 [B]: label sets may mix codecs.
    exact: target name -> (int64 [K], float32 [K, C, T]): clips whose label has no codes, and its values.
    spans: hard target -> the cells of it that are 1.
    targets: target name -> float32, those that are no codes: averages, many classes in one, other grids, other axes.
    number: int64 [B], of the source. source, key: as in Batch.
    """

    waveform: Tensor
    samples: Tensor
    present: Tensor
    number: Tensor
    codes: dict[str, Tensor]
    table_start: dict[str, Tensor]
    exact: dict[str, tuple[Tensor, Tensor]]
    spans: dict[str, Spans]
    targets: dict[str, Tensor]
    source: list[str]
    key: list[str]
    layout: CompactLayout

    def __len__(self) -> int:
        return self.waveform.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "CompactBatch":
        """The batch with its tensors on `device`, as `Batch.to` does it."""
        mover = Mover(device, non_blocking=non_blocking)
        moved = mover.moved
        batch = replace(
            self,
            waveform=moved(self.waveform),
            samples=moved(self.samples),
            present=moved(self.present),
            number=moved(self.number),
            codes={name: moved(codes) for name, codes in self.codes.items()},
            table_start={name: moved(start) for name, start in self.table_start.items()},
            exact={name: (moved(places), moved(values)) for name, (places, values) in self.exact.items()},
            spans={name: Spans(moved(one.start), moved(one.length), one.cells) for name, one in self.spans.items()},
            targets={name: moved(target) for name, target in self.targets.items()},
        )
        mover.end()
        return batch

    def expand(self) -> Batch:
        """The batch in float32, in new memory, where the tensors are."""
        layouts = self.layout.layouts
        waveform = self.waveform.to(torch.float32)
        waveform *= 1 / 32768
        weight = {name: self._weight(number, name, layout) for number, (name, layout) in enumerate(layouts.items())}
        return Batch(
            waveform=waveform,
            targets={name: self._target(name, layout, weight[name]) for name, layout in layouts.items()},
            weight=weight,
            valid_frames=self._frames(HOP_MS, 1).clamp_max(self.layout.frames),
            source=list(self.source),
            key=list(self.key),
            sample_rate=self.layout.sample_rate,
            axes={name: layout.axes for name, layout in layouts.items()},
            hop_ms={name: layout.hop_ms for name, layout in layouts.items() if layout.hop_ms is not None},
        )

    def _frames(self, hop_ms: int, parts: int) -> Tensor:
        """Frames of hop_ms / parts that stand on audio: int64 [B]."""
        divisor = self.layout.sample_rate * hop_ms
        return torch.div(self.samples * (1000 * parts) + (divisor - 1), divisor, rounding_mode="floor")

    def _weight(self, number: int, name: str, layout: TargetLayout) -> Tensor:
        device = self.waveform.device
        weight = self.present[:, number].to(torch.float32).reshape(-1, *(1,) * len(layout.axes))
        if name in self.layout.known:
            known = torch.from_numpy(self.layout.known[name]).to(device)
            sizes = [size if axis == "class" else 1 for axis, size in zip(layout.axes, layout.shape, strict=True)]
            weight = weight * known[self.number].reshape(-1, *sizes)
        if layout.hop_ms is not None:
            sizes = [-1 if axis == "time" else 1 for axis in layout.axes]
            frames = torch.arange(layout.frames, device=device).reshape(sizes)
            valid = self._frames(*layout.hop_ms.as_integer_ratio()).clamp_max(layout.labelled)
            valid = valid.reshape(-1, *(1,) * len(sizes))
            weight = weight * (frames < valid)
        return weight.expand(len(self), *layout.weight_shape).contiguous()

    def _target(self, name: str, layout: TargetLayout, weight: Tensor) -> Tensor:
        if name in self.targets:
            return self.targets[name].clone()
        shape = (len(self), *layout.shape)
        if name in self.spans:
            target = torch.zeros(shape, device=self.waveform.device)
            target.view(-1)[self.spans[name].numbers()] = 1
            return target
        codes = self.codes[name].to(torch.int32)
        codes &= 0xFFFF
        codes += self.table_start[name].to(torch.int32).reshape(-1, *(1,) * len(layout.shape))
        target = self.layout.table(name, codes.device).index_select(0, codes.reshape(-1)).reshape(shape)
        places, values = self.exact[name]
        if len(places):
            target[places] = values
        # 0 and not NaN where nothing is known: codes of what is absent are 0, and no table has NaN there.
        return target.mul_(weight)
