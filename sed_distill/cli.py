"""`sed-distill`: one parser, one function per command. Each command's work is done by the package it belongs to."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code (0 complete, 1 incomplete, 2 wrong use)."""
    from jobs import run_command

    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    return run_command(lambda: command(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sed-distill",
        description="Label AudioSet once with big sound-event-detection teachers; train any student from the shards.",
        epilog="first look: sed-distill demo --out demo-out",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_demo, _add_pack, _add_label, _add_verify, _add_info):
        add(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Command, summary: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(command=run)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "demo",
        _demo,
        "Run the whole pipeline on generated audio and write a report.",
        "sed-distill demo --out demo-out",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the demo (default: demo-out)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sounds and training (default: 0)")


def _add_pack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from jobs import add_run_arguments

    parser = _command(
        commands, "pack", _pack, "Decode and resample recordings into audio shards.",
        "sed-distill pack --dataset DATA --split weak --folder WAVS --keys audioset --weak-csv segments.csv",
    )  # fmt: skip
    parser.add_argument("--dataset", required=True, type=Path, help="dataset folder; made when missing")
    parser.add_argument("--split", required=True, choices=("weak", "strong", "dev", "eval"))
    parser.add_argument(
        "--folder", required=True, type=Path, help="folder of recordings, any mix of formats, nested or not"
    )
    parser.add_argument(
        "--keys", required=True, choices=("audioset", "path"),
        help="audioset: file names hold YouTube ids, clips wanted are the CSV's; path: every file is a clip of its own",
    )  # fmt: skip
    parser.add_argument(
        "--weak-csv", type=Path, help="segments with weak labels (official format; for --keys path: columns path, mid)"
    )
    parser.add_argument("--strong-tsv", type=Path, help="events with onset and offset (official format)")
    parser.add_argument(
        "--long",
        choices=("first", "split"),
        default="first",
        help="recordings over 10 s: keep the first 10 s, or cut into clips",
    )
    parser.add_argument("--clips-per-shard", type=int, default=1000)
    add_run_arguments(parser)


def _add_label(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from teachers import add_label_arguments

    parser = _command(
        commands, "label", _label, "Label the clips of a split with a teacher.",
        "sed-distill label --dataset DATA --split weak --teacher beats=BEATs_strong_1.pt --labels beats",
    )  # fmt: skip
    add_label_arguments(parser, default_split=None)


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "verify", _verify, "Check every shard against its sidecar.", "sed-distill verify DATA")
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="sidecars, sizes, completeness and bindings only; no tar is read"
    )
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "info", _info, "Show a dataset in one screen.", "sed-distill info DATA")
    parser.add_argument("dataset", type=Path)


def _demo(arguments: argparse.Namespace) -> int:
    from sed_distill._demo import DemoRecipe, run_demo

    recipe = DemoRecipe()
    training = dataclasses.replace(recipe.training, seed=arguments.seed)
    return run_demo(arguments.out.absolute(), dataclasses.replace(recipe, training=training))


def _pack(arguments: argparse.Namespace) -> int:
    from jobs import pack_stage, run_stage_from

    stage = pack_stage(
        dataset=arguments.dataset.absolute(),
        split=arguments.split,
        folder=arguments.folder.absolute(),
        keys=arguments.keys,
        weak_csv=arguments.weak_csv,
        strong_tsv=arguments.strong_tsv,
        long=arguments.long,
        clips_per_shard=arguments.clips_per_shard,
    )
    return run_stage_from(stage, arguments)


def _label(arguments: argparse.Namespace) -> int:
    from teachers import run_label

    arguments.dataset = str(Path(arguments.dataset).absolute())
    return run_label(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from jobs import stop_if_asked, stop_signals
    from shards import verify

    with stop_signals():
        problems = verify(arguments.dataset, quick=arguments.quick, progress=lambda done, total: stop_if_asked())
    if arguments.json:
        print(json.dumps([{"shard": str(p.shard), "key": p.key, "kind": p.kind, "detail": p.detail} for p in problems]))
    else:
        for problem in problems:
            print(f"{problem.shard}\t{problem.key or '-'}\t{problem.kind}\t{problem.detail}")
        count = f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
        remedy = "; restore the file, or delete the .json of its shard and give the pack or label command again"
        print(f"{arguments.dataset}: {count}{remedy if problems else ''}", file=sys.stderr)
    return 1 if problems else 0


def _info(arguments: argparse.Namespace) -> int:
    from shards import describe

    print(describe(arguments.dataset))
    return 0
