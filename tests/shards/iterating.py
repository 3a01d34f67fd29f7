"""Iterates until it is stopped: python -m tests.shards.iterating DATASET HOW

HOW: `threads`, `caller` (no thread), or the start method of a DataLoader's two workers: `fork`, `spawn`, `forkserver`,
with `,file_system` behind it for that way of sharing tensors.
"""

import signal
import sys
from collections.abc import Iterable

import torch.multiprocessing
from torch.utils.data import DataLoader

from shards import Batch, MixedLoader, Source
from tests.shards.small_dataset import VOCABULARY


def main(root: str, how: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    method, _, sharing = how.partition(",")
    if sharing:
        torch.multiprocessing.set_sharing_strategy(sharing)
    loader = MixedLoader(
        [Source(root, "weak", share=1, labels=("frames",))],
        8,
        vocabulary=VOCABULARY,
        batches_per_epoch=10**6,
        workers=0 if method == "caller" else 2,
    )
    batches: Iterable[Batch] = loader
    if method not in ("threads", "caller"):
        batches = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context=method)
    for step, _ in enumerate(batches):
        if step == 4:
            print("ready", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
