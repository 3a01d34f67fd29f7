"""How many clips a second a training GPU takes, and how many cores of ours deliver twice that."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from students import frame_mobilenet

# Multiply-adds of one clip of 1,000 mel frames through fmn10+TF:256 forwards: 947 M in the convolutions (counted by
# torch.utils.flop_counter), 61 M in the projection to 256, 2 x 229 M in the two blocks, 57 M in two heads of 447.
STUDENT_MACS = 1_523e6
# MobileNetV3-Large at 224 x 224, the published network closest to it, and the speed it is trained at on an RTX 3090:
# pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, mobilenetv3_large_100.
PUBLISHED_MACS = 217e6
PUBLISHED_IMAGES_PER_S = 2_732
PUBLISHED_GB_PER_S = 936
GB_PER_S = {"RTX 3090": 936, "A100 80 GB": 2_039, "H100 SXM": 3_350}
_TRAIN_BATCH, _TRAIN_STEPS = 256, 20


def table(cpu_ms: Mapping[str, float]) -> str:
    """cpu_ms: of a clip, by the name of our loader."""
    need = {name: derived_clips_per_s(bandwidth) for name, bandwidth in GB_PER_S.items()}
    if torch.cuda.is_available():
        need[f"{torch.cuda.get_device_name()}, fmn10 alone, measured"] = trained_clips_per_s("cuda")
    head = "".join(f" {name} |" for name in cpu_ms)
    lines = [
        "Training fmn10+TF:256, derived: the speed at which MobileNetV3-Large trains on an RTX 3090, divided by the",
        "ratio of multiply-adds; for other GPUs multiplied by the ratio of memory bandwidths, which bound such",
        "networks. Beside it the cores that each of our rows takes for twice as much.",
        "",
        f"| GPU | clips/s |{head}",
        f"|---|---|{'---|' * len(cpu_ms)}",
    ]
    for name, clips_per_s in need.items():
        cores = "".join(f" {2 * clips_per_s * ms / 1e3:.2f} |" for ms in cpu_ms.values())
        lines.append(f"| {name} | {clips_per_s:,.0f} |{cores}")
    return "\n".join(lines)


def derived_clips_per_s(gb_per_s: float) -> float:
    return PUBLISHED_IMAGES_PER_S * PUBLISHED_MACS / STUDENT_MACS * gb_per_s / PUBLISHED_GB_PER_S


def trained_clips_per_s(device: str, batch: int = _TRAIN_BATCH, steps: int = _TRAIN_STEPS) -> float:
    """Forwards and backwards of fmn10 without a sequence model, which this package has not, on one batch in bf16."""
    student = frame_mobilenet(1.0, 447).to(device)
    optimizer = torch.optim.Adam(student.parameters())
    waveform = torch.randn(batch, 160_000, device=device) / 10
    target = torch.rand(batch, 447, 250, device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            logits = student(waveform).frame
        functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()

    for _ in range(3):
        step()
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(steps):
        step()
    ended.record()
    torch.cuda.synchronize()
    return batch * steps / (started.elapsed_time(ended) / 1e3)
