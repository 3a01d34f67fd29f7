"""Small datasets and teachers for tests of labelling."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from jobs import pack_stage, run_stage
from pipeline import AudioSpec, Vocabulary, write_split
from teachers import Beats, BeatsConfig, Teacher

MIDS = ("/m/01h8n0", "/m/07s0dtb", "/m/02dgv")


def packed(folder: Path, *, split: str = "strong", clips: int = 6, clips_per_shard: int = 3) -> Path:
    """A dataset with one packed split of generated soundscapes."""
    recordings = folder / "recordings" / split
    write_split(recordings, split=split, clips=clips, seed=3, strong=split != "weak")
    stage = pack_stage(
        dataset=folder / "dataset",
        split=split,
        folder=recordings / "audio",
        keys="audioset",
        weak_csv=recordings / "weak.csv",
        strong_tsv=None if split == "weak" else recordings / "strong.tsv",
        clips_per_shard=clips_per_shard,
    )
    assert run_stage(stage, executor="local", progress=False).exit_code == 0
    return folder / "dataset"


def tiny_beats(path: Path, *, seed: int = 0) -> Path:
    """A random two-layer BEATs in the unilm layout."""
    torch.manual_seed(seed)
    config = BeatsConfig(
        embed_dim=32, encoder_layers=2, encoder_embed_dim=48, encoder_ffn_embed_dim=96, encoder_attention_heads=3,
        conv_pos=16, predictor_class=len(MIDS),
    )  # fmt: skip
    torch.save({"cfg": asdict(config), "model": Beats(config).state_dict(), "label_dict": dict(enumerate(MIDS))}, path)
    return path


class LevelTeacher(Teacher):
    """A teacher of the user's own that sometimes fails: logits are the clip's level in dB, but NaN for a loud clip."""

    LOUD_DB = -25.0

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=Vocabulary(MIDS, MIDS), device=device,
            provenance={"family": "level", "checkpoint_sha256": "0" * 64},
        )  # fmt: skip

    def _frame_logits(self, waveforms: Tensor, frames: int) -> Tensor:
        level = 20 * torch.log10(waveforms.square().mean(dim=1).sqrt() + 1e-9)
        level[level > self.LOUD_DB] = torch.nan
        return level[:, None, None].expand(-1, len(MIDS), 250)
