"""`sed-distill`: one parser, one function per command. Each command's work is done by the package it belongs to."""

import argparse
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
    for add in (
        _add_demo,
        _add_pack,
        _add_transcode,
        _add_label,
        _add_merge,
        _add_teachers,
        _add_import_labels,
        _add_export_labels,
        _add_attach,
        _add_verify,
        _add_repair,
        _add_index,
        _add_info,
        _add_peek,
        _add_report,
    ):
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
    parser.add_argument("--dataset", required=True, help="dataset folder; made when missing")
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
    parser.add_argument("--clips-per-shard", type=int, default=1000, help="clips of a new shard (default: 1000)")
    parser.add_argument("--sample-rate", type=int, default=16_000, help="Hz of the stored clips (default: 16000)")
    parser.add_argument("--layout", choices=("mono", "foa"), default="mono", help="foa: four ambisonic channels")
    parser.add_argument("--clip-ms", type=int, default=10_000, help="longest clip in ms (default: 10000)")
    parser.add_argument(
        "--codec", choices=("flac", "pcm16", "fast"), default="flac", help="how clips are stored, all lossless"
    )
    add_run_arguments(parser)


def _add_transcode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from jobs import add_run_arguments

    parser = _command(
        commands, "transcode", _transcode, "Make a training copy of a dataset with its audio in another codec.",
        "sed-distill transcode --dataset DATA --out /local/DATA --codec fast",
    )  # fmt: skip
    parser.add_argument("--dataset", required=True, help="dataset to copy: a folder or s3://bucket/prefix")
    parser.add_argument("--out", required=True, help="folder of the copy; one that is there is completed")
    parser.add_argument(
        "--codec", required=True, choices=("flac", "pcm16", "fast"),
        help="fast: decodes three times as fast as FLAC, or more; pcm16: no decoding; flac: smallest; all lossless",
    )  # fmt: skip
    parser.add_argument("--split", nargs="+", default=[], help="splits to copy (default: all)")
    parser.add_argument("--audio", nargs="+", default=[], metavar="SPEC", help="audio specs to copy (default: all)")
    parser.add_argument("--clips-per-shard", type=int, help="clips of a new shard (default: the shards of the dataset)")
    add_run_arguments(parser)


def _add_label(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from teachers import add_label_arguments

    parser = _command(
        commands, "label", _label, "Label the clips of a split with a teacher.",
        "sed-distill label --dataset DATA --split weak --teacher beats=BEATs_strong_1.pt --labels beats",
    )  # fmt: skip
    add_label_arguments(parser, default_split=None)


def _add_merge(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from jobs import add_merge_arguments

    parser = _command(
        commands, "merge", _merge, "Average label sets as an ensemble would, or store one in another codec.",
        "sed-distill merge --dataset DATA --split weak --from beats atst m2d --labels three",
    )  # fmt: skip
    add_merge_arguments(parser)


def _add_teachers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from sed_distill._teachers import add_teachers_arguments

    parser = _command(
        commands, "teachers", _teachers, "List the teachers; measure what half precision costs a checkpoint.",
        "sed-distill teachers --check beats=BEATs_strong_1.pt --precision float16",
    )  # fmt: skip
    add_teachers_arguments(parser)


def _add_import_labels(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "import-labels", _import_labels, "Import published pseudo-labels, checked against the hard labels.",
        "sed-distill import-labels --dataset DATA --split strong --labels ensemble --format pretrained-sed --file F.h5",
    )  # fmt: skip
    parser.add_argument("--dataset", required=True, help="dataset folder, packed")
    parser.add_argument("--split", required=True, choices=("weak", "strong", "dev", "eval"))
    parser.add_argument("--labels", required=True, help="name of the label set to write")
    parser.add_argument(
        "--format", required=True, choices=("pretrained-sed", "efficientat", "ced", "sat"), help="whose files they are"
    )
    parser.add_argument("--file", required=True, type=Path, nargs="+", help="HDF5, .npy or parquet of labels")
    parser.add_argument(
        "--index", type=Path, nargs="+", default=[],
        help="efficientat: JSON or CSV of names and rows; ced: the parquet of each file",
    )  # fmt: skip
    parser.add_argument(
        "--tail", help="ced, sat: what classes outside of the top k are: zero, last-mean, last-half or constant=P"
    )
    parser.add_argument("--chunk-s", type=float, help="ced, sat: seconds of a chunk (ced: 10 by default)")
    parser.add_argument("--augmented", action="store_true", help="ced: take labels of randomly augmented views")
    parser.add_argument("--audio", help="audio set that gets labels, if the split has several")
    parser.add_argument(
        "--codec", choices=("master", "faithful", "small"), default="master", help="label codec (default: master)"
    )
    parser.add_argument("--reference", help="label set to estimate the lag against, instead of the strong hard labels")
    parser.add_argument("--unchecked", action="store_true", help="import even if class order or names cannot be right")
    parser.add_argument("--allow-lag", action="store_true", help="import even with a large lag, or with an unknown one")


def _add_export_labels(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "export-labels", _export_labels, "Export frame logits for training code of others.",
        "sed-distill export-labels --dataset DATA --split strong --labels beats --format pretrained-sed --out F.h5",
    )  # fmt: skip
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument("--split", required=True, choices=("weak", "strong", "dev", "eval"))
    parser.add_argument("--labels", required=True, help="label set to export: 40 ms logits of the 447 classes")
    parser.add_argument("--format", required=True, choices=("pretrained-sed",), help="layout of the file")
    parser.add_argument("--out", required=True, type=Path, help="HDF5 file to write")


def _add_attach(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "attach", _attach, "Attach a published label set to this copy of its clips.",
        "sed-distill attach --from beats-labels/ --dataset DATA --split strong --labels beats",
    )  # fmt: skip
    parser.add_argument(
        "--from", required=True, dest="source", help="folder of the set: its tars and .json, or a prefix on a store"
    )
    parser.add_argument("--dataset", required=True, help="dataset folder, packed from any decode of the clips")
    parser.add_argument("--split", required=True, choices=("weak", "strong", "dev", "eval"))
    parser.add_argument("--labels", required=True, help="name of the label set to write")
    parser.add_argument("--audio", help="audio set that gets labels (default: the one labelled, else the only one)")
    parser.add_argument(
        "--max-refused", type=int, default=0, metavar="N",
        help="go without the labels of up to N clips whose audio is shifted or differs (default: 0)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE", help="JSON of what was found, written in any case")


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "verify", _verify, "Check every byte of a dataset: tars, clips, labels, and all against each other.",
        "sed-distill verify DATA",
    )  # fmt: skip
    parser.add_argument("dataset", help="folder, or a prefix on a store (s3://bucket/prefix)")
    _add_checks(parser)
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    """How deep a verification goes, and where it runs."""
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="sidecars, tables, sizes and bindings only; no tar is read")
    depth.add_argument("--no-decode", action="store_true", help="hashes and checksums of all bytes; decode no clip")
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="ray: as a job, for millions of clips"
    )
    parser.add_argument("--workers", type=int, help="shards checked at once (default: one a core)")
    parser.add_argument("--ray-address", help="cluster to join (default: RAY_ADDRESS, else an embedded local Ray)")


def _add_repair(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "repair", _repair, "Move what verify finds bad to DATA/quarantine, and print what restores it.",
        "sed-distill repair DATA",
    )  # fmt: skip
    parser.add_argument("dataset", help="folder")
    _add_checks(parser)
    parser.add_argument("--dry-run", action="store_true", help="move nothing, only say what would be moved")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def _add_index(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "index", _index, "Make or refresh the indexes by which a big dataset opens fast.",
        "sed-distill index DATA",
    )  # fmt: skip
    parser.add_argument("dataset", help="dataset folder")


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "info", _info, "Show a dataset in one screen.", "sed-distill info DATA")
    parser.add_argument("dataset", help="dataset folder, or URL of an object store")


def _add_peek(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "peek", _peek, "Show one batch as training gets it: a table and a picture.",
        "sed-distill peek DATA --labels beats --out peek.html",
    )  # fmt: skip
    parser.add_argument("dataset", help="dataset folder, or URL of an object store")
    parser.add_argument(
        "--split", nargs="+", choices=("weak", "strong"), default=[], help="sources of the mix (default: all there)"
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", default=[], help="label sets to show (default: all)")
    parser.add_argument("--audio", metavar="SPEC", help="audio spec, if a split has several")
    parser.add_argument("--clips", type=int, default=8, help="clips of the batch, in equal shares (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("peek.html"), metavar="FILE", help="a .html or .png (default: peek.html)"
    )


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands, "report", _report, "Are the labels of a split any good? A table, a page and a JSON.",
        "sed-distill report DATA --split strong --labels beats --out beats-report",
    )  # fmt: skip
    parser.add_argument("dataset", help="dataset folder, or URL of an object store")
    parser.add_argument("--split", required=True, choices=("weak", "strong", "dev", "eval"))
    parser.add_argument("--labels", required=True, nargs="+", metavar="NAME", help="label sets, side by side")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="gets report.html and report.json")
    parser.add_argument(
        "--clips", type=int, default=6, metavar="N",
        help="clips to show of each way in which people and teacher differ (default: 6)",
    )  # fmt: skip


def _demo(arguments: argparse.Namespace) -> int:
    from sed_distill._demo import DemoRecipe, run_demo

    recipe = DemoRecipe()
    training = dataclasses.replace(recipe.training, seed=arguments.seed)
    return run_demo(arguments.out.absolute(), dataclasses.replace(recipe, training=training))


def _pack(arguments: argparse.Namespace) -> int:
    from jobs import check_run_arguments, local_folder, pack_stage, run_stages_from
    from pipeline import AudioSpec

    check_run_arguments(arguments)
    stage = pack_stage(
        dataset=local_folder(arguments.dataset),
        split=arguments.split,
        folder=arguments.folder.absolute(),
        keys=arguments.keys,
        weak_csv=arguments.weak_csv,
        strong_tsv=arguments.strong_tsv,
        long=arguments.long,
        audio_spec=AudioSpec(sample_rate=arguments.sample_rate, layout=arguments.layout, clip_ms=arguments.clip_ms),
        codec=arguments.codec,
        clips_per_shard=arguments.clips_per_shard,
    )
    return run_stages_from((stage,), arguments)


def _transcode(arguments: argparse.Namespace) -> int:
    from jobs import check_run_arguments, local_folder, run_stages_from, transcode_stages

    check_run_arguments(arguments)
    dataset = arguments.dataset
    stages = transcode_stages(
        dataset=dataset if "://" in dataset else Path(dataset).absolute(),
        out=local_folder(arguments.out),
        codec=arguments.codec,
        splits=arguments.split,
        audio=arguments.audio,
        clips_per_shard=arguments.clips_per_shard,
    )
    return run_stages_from(stages, arguments)


def _label(arguments: argparse.Namespace) -> int:
    from jobs import local_folder
    from teachers import run_label

    arguments.dataset = str(local_folder(arguments.dataset))
    return run_label(arguments)


def _merge(arguments: argparse.Namespace) -> int:
    from jobs import run_merge

    return run_merge(arguments)


def _teachers(arguments: argparse.Namespace) -> int:
    from sed_distill._teachers import run_teachers

    return run_teachers(arguments)


def _import_labels(arguments: argparse.Namespace) -> int:
    from pipeline import UsageError
    from shards import ForeignFiles, import_labels

    if arguments.chunk_s is not None and not math.isfinite(arguments.chunk_s * 1000):
        raise UsageError(f"--chunk-s is {arguments.chunk_s}, needs a number of seconds")
    source = ForeignFiles(
        format=arguments.format,
        files=tuple(arguments.file),
        index=tuple(arguments.index),
        tail=arguments.tail,
        chunk_ms=None if arguments.chunk_s is None else round(arguments.chunk_s * 1000),
        augmented=arguments.augmented,
    )
    with _counting("import-labels") as progress:
        report = import_labels(
            arguments.dataset,
            arguments.split,
            arguments.labels,
            source,
            audio=arguments.audio,
            codec=arguments.codec,
            reference=arguments.reference,
            unchecked=arguments.unchecked,
            allow_lag=arguments.allow_lag,
            progress=progress,
        )
    print("\n".join(report.lines()))
    return 0 if report.stored else 1


def _export_labels(arguments: argparse.Namespace) -> int:
    from shards import export_labels

    with _counting("export-labels") as progress:
        report = export_labels(arguments.dataset, arguments.split, arguments.labels, arguments.out, progress=progress)
    clips = f"{report.clips} clip{'' if report.clips == 1 else 's'}"
    print(f"export-labels: {clips} = {report.exported} exported + {report.without_label} without label")
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    from pipeline import UsageError, canonical_json, write_atomic
    from shards import attach_labels

    told = arguments.report
    if told is not None and (told.is_dir() or not told.absolute().parent.is_dir()):
        raise UsageError(f"--report {told}: cannot be written there; give a file in a folder that is there")
    with _counting("attach") as progress:
        report = attach_labels(
            arguments.dataset,
            arguments.split,
            arguments.labels,
            arguments.source,
            audio=arguments.audio,
            max_refused=arguments.max_refused,
            progress=progress,
        )
    print("\n".join(report.lines()))
    if told is not None:
        write_atomic(told, canonical_json(report.to_json()) + "\n")
    return 0 if report.complete else 1


def _verify(arguments: argparse.Namespace) -> int:
    from sed_distill._verify import run_verify

    return run_verify(arguments)


def _repair(arguments: argparse.Namespace) -> int:
    from sed_distill._repair import run_repair

    return run_repair(arguments)


def _index(arguments: argparse.Namespace) -> int:
    from shards import Dataset, dataset_folders, open_index

    dataset = Dataset.open(arguments.dataset)
    stored = True
    for folder, kind in dataset_folders(dataset):
        started = time.monotonic()
        index = open_index(folder, kind)
        stored = stored and index.stored
        took = f"{len(index):,} clips, {len(index.shards):,} shards, {time.monotonic() - started:.1f} s"
        print(f"{folder.relative_to(dataset.root)}: {took}{'' if index.stored else '; cannot be stored there'}")
    return 0 if stored else 1


def _info(arguments: argparse.Namespace) -> int:
    from shards import describe

    print(describe(arguments.dataset), end="")
    return 0


def _peek(arguments: argparse.Namespace) -> int:
    from sed_distill._peek import run_peek

    return run_peek(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from sed_distill._label_report import run_report

    with _counting("report") as progress:
        return run_report(arguments, progress)


@contextlib.contextmanager
def _counting(command: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress function that prints a line to stderr every 10 s, and stops where a signal asked for it."""
    from jobs import stop_if_asked, stop_signals

    last_s = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last_s
        stop_if_asked()
        if time.monotonic() - last_s >= 10:
            last_s = time.monotonic()
            print(f"{command}: {what} {done}/{total}", file=sys.stderr, flush=True)

    with stop_signals():
        yield show
