"""Train on several processes with DistributedDataParallel, stop anywhere, go on with another number of them:

    torchrun --nproc-per-node 2 docs/trainers/ddp.py DATASET LABEL_SET CHECKPOINT STEPS

Every process reads its own part of the same global batches. `loader.state_dict()` is the same on all of them. The file
CHECKPOINT is written every SAVE_EVERY steps; the same command goes on from it.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline import audioset_strong_447
from shards import MixedLoader, Source, mixup, weighted_bce
from students import frame_mobilenet

GLOBAL_BATCH = 8
SAVE_EVERY = 100

if len(sys.argv) != 5:
    sys.exit(__doc__)
root, labels, checkpoint, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
cuda = torch.cuda.is_available()
dist.init_process_group("nccl" if cuda else "gloo")  # torchrun's environment says the rest
rank, world_size = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")

classes = audioset_strong_447()
sources = [Source(root, split, share=0.5, labels=(labels,)) for split in ("weak", "strong")]
loader = MixedLoader(sources, GLOBAL_BATCH // world_size, vocabulary=classes, rank=rank, world_size=world_size)
student = DistributedDataParallel(frame_mobilenet(0.4, len(classes)).to(device))
optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
if checkpoint.exists():
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    student.module.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])

place = loader.state_dict()
done = place["epoch"] * len(loader) + place["step"]
while done < steps:
    for batch in loader:
        # Drawn anew for every step and rank, and the same again after a resume.
        generator = torch.Generator().manual_seed(done * world_size + rank)
        batch = mixup(batch.to(device), generator=generator)
        logits = student(batch.waveform)
        soft = weighted_bce(logits.frame, batch.targets[labels], batch.weight[labels])
        hard = weighted_bce(logits.clip, batch.targets["hard_weak"], batch.weight["hard_weak"])
        optimizer.zero_grad()
        (0.9 * soft + 0.1 * hard).backward()
        optimizer.step()
        done += 1
        if rank == 0:
            print(f"step {done}: distillation {soft.item():.6f}, hard labels {hard.item():.6f}", flush=True)
        if rank == 0 and (done % SAVE_EVERY == 0 or done == steps):
            state = {
                "student": student.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
            }
            torch.save(state, f"{checkpoint}.part")
            os.replace(f"{checkpoint}.part", checkpoint)  # never half a checkpoint
        if done == steps:
            break

dist.destroy_process_group()
