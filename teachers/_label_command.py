"""The arguments of a label run: one function behind `label_weak.py`, `label_strong.py` and `sed-distill label`."""

import argparse
import os
import sys
from pathlib import Path

from jobs import add_run_arguments, check_run_arguments, resolve_address, run_stages_from
from pipeline import UsageError
from teachers._labeller_arguments import add_labeller_arguments


def add_label_arguments(parser: argparse.ArgumentParser, default_split: str | None) -> None:
    parser.add_argument("--dataset", required=True, help="dataset folder; absolute for the scripts that jobs run")
    parser.add_argument("--split", default=default_split, required=default_split is None, help="split to label")
    add_labeller_arguments(parser)
    parser.add_argument("--labels", required=True, help="name of the label set to write")
    parser.add_argument(
        "--codec", choices=("master", "faithful", "small", "npy"), default="faithful", metavar="CODEC",
        help="master, faithful (default), small or npy: shards/FORMAT.md",
    )  # fmt: skip
    parser.add_argument("--audio", help="audio set to label, if the split has several")
    parser.add_argument("--device", default="auto", help="cpu, or cuda: a GPU a worker (default: cuda where it is)")
    parser.add_argument(
        "--batch-size", default="auto", metavar="CLIPS",
        help="heard at once; halved when memory runs out (default: auto, the fastest)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N",
        help="of a worker (default: 1; for a GPU, its share of the cores)",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="on cuda: run the teacher as it is, not compiled")
    add_run_arguments(parser)


def run_label(arguments: argparse.Namespace) -> int:
    """Label what is missing; returns the exit code."""
    from teachers._labeller import LabellerChoice  # these load torch, which no other command has to wait for
    from teachers._registry import check_device, parse_device
    from teachers.labelling._stage import label_stage

    check_run_arguments(arguments)
    on_this_machine = arguments.executor == "local" or resolve_address(arguments.ray_address, os.environ) is None
    if arguments.device != "auto" and on_this_machine:
        check_device(parse_device(arguments.device))
    stage = label_stage(
        dataset=Path(arguments.dataset),
        split=arguments.split,
        labels=arguments.labels,
        teacher=LabellerChoice.parse(arguments),
        audio=arguments.audio,
        codec=arguments.codec,
        device=arguments.device,
        batch_size=_batch_size(arguments.batch_size),
        threads=arguments.threads,
        compile=not arguments.no_compile,
    )
    if arguments.device == "auto" and arguments.executor == "ray" and not stage.gpus and stage.tasks:
        _say_where(resolve_address(arguments.ray_address, os.environ))
    return run_stages_from((stage,), arguments)


def _say_where(cluster: str | None) -> None:
    """`auto` looks at this machine; who names a cluster may mean its GPUs."""
    if cluster is not None:
        print(
            f"label: this machine has no GPU, so the workers at {cluster} label on the CPU; where they have GPUs, give "
            "--device cuda",
            file=sys.stderr,
        )


def label_script(default_split: str, description: str) -> int:
    """`main` of a label script."""
    parser = argparse.ArgumentParser(description=description)
    add_label_arguments(parser, default_split)
    return run_label(parser.parse_args())


def _batch_size(text: str) -> int | None:
    """None for `auto`. Raises UsageError unless it is that or a number."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--batch-size is {text!r}, needs a number of clips, or auto")
    return int(text)
