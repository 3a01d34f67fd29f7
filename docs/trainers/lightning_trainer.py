"""Train with Lightning: python docs/trainers/lightning_trainer.py DATASET LABEL_SET CHECKPOINT STEPS

Lightning saves the loader's state in its checkpoints and loads it, as it does for all that has state_dict and
load_state_dict: a run that stopped within an epoch goes on there. Give it the loader itself, not a DataLoader of it.
The file CHECKPOINT is written every SAVE_EVERY steps; the same command goes on from it.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from pipeline import audioset_strong_447
from shards import Batch, MixedLoader, Source, mixup, weighted_bce
from students import frame_mobilenet

GLOBAL_BATCH = 8
SAVE_EVERY = 100


class Clips(pl.LightningDataModule):
    """Half weak and half strong clips, each process its own part of every global batch."""

    def __init__(self, root: str, labels: str) -> None:
        super().__init__()
        self.root, self.labels = root, labels

    def train_dataloader(self) -> MixedLoader:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sources = [Source(self.root, split, share=0.5, labels=(self.labels,)) for split in ("weak", "strong")]
        classes = audioset_strong_447()
        return MixedLoader(sources, GLOBAL_BATCH // world_size, vocabulary=classes, rank=rank, world_size=world_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)


class Distillation(pl.LightningModule):
    def __init__(self, labels: str) -> None:
        super().__init__()
        self.labels = labels
        self.student = frame_mobilenet(0.4, len(audioset_strong_447()))

    def on_train_epoch_start(self) -> None:
        # Go on in the loader's epoch, which a new iterator would start again: one of Lightning is shorter after a
        # resume from its end, and with limit_train_batches.
        loader = self.trainer.train_dataloader
        loader.load_state_dict(loader.state_dict())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Drawn anew for every step and rank, and the same again after a resume.
        seed = self.global_step * self.trainer.world_size + self.global_rank
        batch = mixup(batch, generator=torch.Generator().manual_seed(seed))
        logits = self.student(batch.waveform)
        soft = weighted_bce(logits.frame, batch.targets[self.labels], batch.weight[self.labels])
        hard = weighted_bce(logits.clip, batch.targets["hard_weak"], batch.weight["hard_weak"])
        losses = f"distillation {soft.item():.6f}, hard labels {hard.item():.6f}"
        if self.global_rank == 0:
            print(f"step {self.global_step + 1}: {losses}", flush=True)
        return 0.9 * soft + 0.1 * hard

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Save(pl.Callback):
    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % SAVE_EVERY == 0:
            trainer.save_checkpoint(self.checkpoint)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    root, labels, checkpoint, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[Save(checkpoint)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resume = checkpoint if checkpoint.exists() else None
    trainer.fit(Distillation(labels), datamodule=Clips(root, labels), ckpt_path=resume)
    trainer.save_checkpoint(checkpoint)
