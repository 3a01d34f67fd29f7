"""The arguments of `sed-distill merge`."""

import argparse
from pathlib import Path

from jobs._command import add_run_arguments, check_run_arguments, run_stages_from
from jobs._merge import merge_stage


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument("--split", required=True, help="split whose labels are merged")
    parser.add_argument(
        "--from", dest="members", nargs="+", required=True, metavar="LABELS",
        help="label sets to average; one: to store in another codec",
    )  # fmt: skip
    parser.add_argument("--labels", required=True, help="name of the label set to write")
    parser.add_argument(
        "--average", choices=("logit", "probability"), default="logit", help="what is averaged (default: logit)"
    )
    parser.add_argument("--weights", type=float, nargs="+", help="weight of each set in the average (default: 1)")
    parser.add_argument(
        "--mixed-protocols", action="store_true",
        help="average labels of teachers of clips with those of frames, and classes that only some sets have",
    )  # fmt: skip
    parser.add_argument("--audio", help="audio set that was labelled, if the split has several")
    parser.add_argument(
        "--codec", choices=("master", "faithful", "small", "npy"), default="faithful",
        help="how labels are stored (default: faithful; see shards/FORMAT.md)",
    )  # fmt: skip
    add_run_arguments(parser)


def run_merge(arguments: argparse.Namespace) -> int:
    """Merge what is missing; returns the exit code."""
    check_run_arguments(arguments)
    stage = merge_stage(
        dataset=Path(arguments.dataset).absolute(),
        split=arguments.split,
        members=arguments.members,
        labels=arguments.labels,
        average=arguments.average,
        weights=arguments.weights,
        mixed_protocols=arguments.mixed_protocols,
        audio=arguments.audio,
        codec=arguments.codec,
    )
    return run_stages_from((stage,), arguments)
