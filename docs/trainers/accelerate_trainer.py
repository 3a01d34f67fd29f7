"""Train with Accelerate: accelerate launch docs/trainers/accelerate_trainer.py DATASET LABEL_SET FOLDER STEPS

Accelerate does not prepare the loader: it would deal out the batches once more, while the loader gives each process its
own part already. The loader's state is saved and loaded with everything else, and holds for any number of processes.
All of it is written to FOLDER every SAVE_EVERY steps; the same command goes on from there.
"""

import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from pipeline import audioset_strong_447
from shards import MixedLoader, Source, mixup, weighted_bce
from students import frame_mobilenet

GLOBAL_BATCH = 8
SAVE_EVERY = 100

if len(sys.argv) != 5:
    sys.exit(__doc__)
root, labels, folder, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
accelerator = Accelerator()
rank, world_size = accelerator.process_index, accelerator.num_processes
classes = audioset_strong_447()
sources = [Source(root, split, share=0.5, labels=(labels,)) for split in ("weak", "strong")]
loader = MixedLoader(sources, GLOBAL_BATCH // world_size, vocabulary=classes, rank=rank, world_size=world_size)
student = frame_mobilenet(0.4, len(classes))
student, optimizer = accelerator.prepare(student, torch.optim.Adam(student.parameters(), lr=1e-3))
accelerator.register_for_checkpointing(loader)
if folder.exists():
    accelerator.load_state(folder)

place = loader.state_dict()
done = place["epoch"] * len(loader) + place["step"]
while done < steps:
    for batch in loader:
        # Drawn anew for every step and rank, and the same again after a resume.
        generator = torch.Generator().manual_seed(done * world_size + rank)
        batch = mixup(batch.to(accelerator.device), generator=generator)
        logits = student(batch.waveform)
        soft = weighted_bce(logits.frame, batch.targets[labels], batch.weight[labels])
        hard = weighted_bce(logits.clip, batch.targets["hard_weak"], batch.weight["hard_weak"])
        optimizer.zero_grad()
        accelerator.backward(0.9 * soft + 0.1 * hard)
        optimizer.step()
        done += 1
        accelerator.print(f"step {done}: distillation {soft.item():.6f}, hard labels {hard.item():.6f}", flush=True)
        if done % SAVE_EVERY == 0 or done == steps:
            part = folder.with_name(f"{folder.name}.part")
            accelerator.save_state(part)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:  # never half a state
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
        if done == steps:
            break
accelerator.end_training()
