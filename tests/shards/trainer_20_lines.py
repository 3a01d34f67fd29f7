"""A student trainer as a user would write one: python trainer_20_lines.py DATASET LABEL_SET"""

import sys

import torch
from torch import nn

from pipeline import audioset_strong_447
from shards import MixedLoader, Source, mixup, weighted_bce

root, labels = sys.argv[1:]
classes = audioset_strong_447()
sources = [Source(root, split, share=0.5, labels=(labels,)) for split in ("weak", "strong")]
loader = MixedLoader(sources, batch_size=8, vocabulary=classes, batches_per_epoch=20)
student = nn.Sequential(nn.Conv1d(1, 32, 640, stride=640), nn.ReLU(), nn.Conv1d(32, len(classes), 1))
optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
generator = torch.Generator().manual_seed(0)
for step, batch in enumerate(loader):
    batch = mixup(batch, generator=generator)
    logits = student(batch.waveform[:, None])
    soft, hard = (weighted_bce(logits, batch.targets[t], batch.weight[t]) for t in (labels, "hard_strong"))
    optimizer.zero_grad()
    (0.9 * soft + 0.1 * hard).backward()
    optimizer.step()
    print(f"step {step}: distillation {soft.item():.4f}, hard labels {hard.item():.4f}")
