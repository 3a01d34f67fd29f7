"""megatron-energon: the same tars as webdataset, prepared and indexed, a blend of two crude datasets, a cooker.

The default loader, without the savable one's snapshots.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.energon import (
    Cooker,
    CrudeSample,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

from benchmarks.loader_peers import _webdataset
from benchmarks.loader_peers._clips import BATCH_SIZE, Clips, decoded_flac, decoded_npy

_DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
_BLEND = """\
__module__: megatron.energon
__class__: MetadatasetV2
splits:
  train:
    blend:
      - weight: 0.5
        path: weak
      - weight: 0.5
        path: strong
"""


def write(folder: Path, clips: Clips) -> None:
    _webdataset.write(folder, clips)
    for source in clips.sources:
        tars = sorted(path.name for path in (folder / source).glob("*.tar"))
        WebdatasetPreparator.prepare_dataset(
            folder / source, tars, split_parts_ratio=[("train", 1.0)], progress_fn=lambda steps, _: steps, workers=1
        )
        (folder / source / ".nv-meta" / "dataset.yaml").write_text(_DATASET)
    (folder / "blend.yaml").write_text(_BLEND)


def batches(folder: Path, workers: int) -> Iterator[Any]:
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    clips = get_train_dataset(
        folder / "blend.yaml",
        worker_config=config,
        batch_size=BATCH_SIZE,
        shuffle_buffer_size=_webdataset.BUFFER,
        max_samples_per_sequence=100,
        task_encoder=_Encoder(),
    )
    yield from get_loader(clips)


@edataclass
class _Clip(Sample):
    waveform: torch.Tensor
    logits: torch.Tensor


@stateless
def _cooked(row: CrudeSample) -> _Clip:
    return _Clip(**basic_sample_keys(row), waveform=decoded_flac(row["flac"]), logits=decoded_npy(row["npy"]))


class _Encoder(DefaultTaskEncoder):
    decoder = None  # members stay bytes
    cookers = (Cooker(_cooked),)

    def batch(self, samples: list[_Clip]) -> Any:
        keys = [sample.__key__ for sample in samples]
        return torch.stack([s.waveform for s in samples]), torch.stack([s.logits for s in samples]), keys
