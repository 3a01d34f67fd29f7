"""The arguments of a label run: one function behind `label_weak.py`, `label_strong.py` and `sed-distill label`."""

import argparse
from pathlib import Path

from jobs import add_run_arguments, check_run_arguments, run_stages_from


def add_label_arguments(parser: argparse.ArgumentParser, default_split: str | None) -> None:
    parser.add_argument("--dataset", required=True, help="dataset folder; absolute for the scripts that jobs run")
    parser.add_argument("--split", default=default_split, required=default_split is None, help="split to label")
    parser.add_argument("--teacher", required=True, help="FAMILY=CHECKPOINT such as beats=BEATs_strong_1.pt, or 'demo'")
    parser.add_argument("--labels", required=True, help="name of the label set to write")
    parser.add_argument(
        "--codec", choices=("master", "faithful", "small", "npy"), default="faithful",
        help="how labels are stored (default: faithful; see shards/FORMAT.md)",
    )  # fmt: skip
    parser.add_argument("--audio", help="audio set to label, if the split has several")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: a GPU for each worker (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips per forward pass (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per worker (default: 1)")
    add_run_arguments(parser)


def run_label(arguments: argparse.Namespace) -> int:
    """Label what is missing; returns the exit code."""
    from teachers._choice import TeacherChoice  # these load torch, which no other command has to wait for
    from teachers._labelling import label_stage

    check_run_arguments(arguments)
    stage = label_stage(
        dataset=Path(arguments.dataset),
        split=arguments.split,
        labels=arguments.labels,
        teacher=TeacherChoice.parse(arguments.teacher),
        audio=arguments.audio,
        codec=arguments.codec,
        device=arguments.device,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
    )
    return run_stages_from((stage,), arguments)


def label_script(default_split: str, description: str) -> int:
    """`main` of a label script."""
    parser = argparse.ArgumentParser(description=description)
    add_label_arguments(parser, default_split)
    return run_label(parser.parse_args())
