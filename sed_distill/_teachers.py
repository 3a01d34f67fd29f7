"""`sed-distill teachers`: what there is to label with, and what half precision costs a checkpoint."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING

from pipeline import (
    AudioSpec,
    ClipRejected,
    UsageError,
    clip_from_file,
    generate_soundscape,
    scan_folder,
    soundscape_seed,
    waveform_into,
)

if TYPE_CHECKING:
    from torch import Tensor

    from teachers import PrecisionError, Release

_WIDTH = 80
_CHECKED = ("bfloat16", "float16")
_CLIPS = 8


def add_teachers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    check = parser.add_argument_group("errors of half precision")
    check.add_argument(
        "--check", nargs="+", metavar="TEACHER",
        help="compare probabilities of half precision with those of float32; TEACHER as for label",
    )  # fmt: skip
    check.add_argument("--precision", nargs="+", choices=_CHECKED, help="to compare (default: both)")
    check.add_argument("--folder", type=Path, help="recordings to compare on (default: generated ones)")
    check.add_argument("--clips", type=int, help=f"how many to compare on (default: {_CLIPS})")
    check.add_argument("--device", help="cpu, or cuda (default: cpu)")


def run_teachers(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 if a precision that was checked is outside of the budget."""
    if arguments.check:
        return _check(arguments)
    given = [name for name in ("precision", "folder", "clips", "device") if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"--{given[0]} is for --check TEACHER; add that, or leave it out")
    from teachers import RELEASES

    if arguments.json:
        print(json.dumps([release.to_json() for release in RELEASES], indent=2))
    else:
        print("\n".join(_listed(RELEASES)))
    return 0


def _listed(releases: Sequence["Release"]) -> Iterator[str]:
    head = ("--teacher", "model", "params", "classes", "hears, s", "PSDS1")
    yield from _table([head, *(_row(release) for release in releases)])
    yield ""
    yield "PSDS1: of the paper, AudioSet eval, %, mean of three runs. FILE: a path or an"
    yield "address; module:factory is a teacher of your own (docs/own_teacher.py). Files"
    yield "are fetched once per node."
    for release in releases:
        yield ""
        yield f"{_names(release)}: {release.model}"
        told = {
            "file": ", ".join(release.checkpoints.values()),
            "page": release.page,
            "paper": release.paper,
            "licence": release.licence,
            "made from": release.made_from,
            "  its licence": release.made_from_licence,
            "trained on": "; ".join(release.trained_on),
        }
        for name, text in told.items():
            for line in wrap(text or "", _WIDTH - 16, break_long_words=False, break_on_hyphens=False):
                yield f"  {name:<14}{line}"
                name = ""


def _row(release: "Release") -> tuple[str, ...]:
    contexts = " ".join(f"{context_ms / 1000:g}" for context_ms in release.contexts_ms)
    psds1 = "-" if release.psds1 is None else f"{release.psds1:.1f}"
    parameters = f"{release.parameters / 1e6:.1f} M"
    return _names(release), release.model, parameters, str(release.classes), contexts, psds1


def _names(release: "Release") -> str:
    if release.family == "demo":
        return "demo"
    return ", ".join(f"{release.family}={name}" for name in release.checkpoints or ("FILE",))


def _check(arguments: argparse.Namespace) -> int:
    from teachers import TeacherChoice, precision_errors

    clips = _CLIPS if arguments.clips is None else arguments.clips
    device = arguments.device or "cpu"
    if clips < 1:
        raise UsageError(f"--clips is {clips}, needs at least 1")
    if arguments.folder is not None:
        scan_folder(arguments.folder)  # before the minute that a big teacher takes
    found: list[PrecisionError] = []
    for choice in [TeacherChoice.parse(text, "--check") for text in arguments.check]:
        found += precision_errors(
            choice,
            lambda spec: _waveforms(spec, arguments.folder, clips),
            precisions=arguments.precision or _CHECKED,
            device=device,
        )
    if arguments.json:
        print(json.dumps([{**_finite(asdict(error)), "fits": error.fits} for error in found], indent=2))
    else:
        print("\n".join(_told(found)))
    return 0 if all(error.fits for error in found) else 1


def _told(errors: "Sequence[PrecisionError]") -> Iterator[str]:
    from teachers import MAX_ERROR, MEAN_ERROR

    head = ("labels", "precision", "largest", "mean", "verdict", "largest in")
    for (teacher, clips), group in groupby(errors, key=lambda error: (error.teacher, error.clips)):
        rows = [
            (
                e.target, e.precision, _marked(e.largest, MAX_ERROR), _marked(e.mean, MEAN_ERROR), _verdict(e),
                shorten(e.at, 28, placeholder="..."),
            )
            for e in group
        ]  # fmt: skip
        yield f"{teacher}, {clips} clip{'' if clips == 1 else 's'}"
        yield from _table([head, *rows])
        yield ""
    yield f"|p - p of float32| over all clips, classes and frames. Within: largest <= {MAX_ERROR:g},"
    yield f"which is what the label codecs may add, and mean <= {MEAN_ERROR:g}. *: outside."


def _marked(error: float, most: float) -> str:
    return f"{error:.1e}" + ("" if error <= most else "*")


def _verdict(error: "PrecisionError") -> str:
    return "within" if error.fits else "not finite" if math.isnan(error.mean) else "too far"


def _finite(fields: dict[str, object]) -> dict[str, object]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def _waveforms(spec: AudioSpec, folder: Path | None, clips: int) -> "Tensor":
    """Float32 [<= clips, N], zero-padded: of the first recordings of the folder that can be read, or generated."""
    import torch

    waveforms = torch.zeros(clips, spec.max_samples)
    if folder is None:
        for row in range(clips):
            seed = soundscape_seed(0, "eval", row)
            made = generate_soundscape(seed, sample_rate=spec.sample_rate, duration_ms=min(spec.clip_ms, 10_000))
            waveforms[row, : len(made.waveform)] = torch.from_numpy(made.waveform)
        return waveforms
    filled = rejected = 0
    for entry in scan_folder(folder):
        if filled == clips:
            break
        try:
            clip = clip_from_file(folder / entry.path, spec=spec)
        except ClipRejected:
            rejected += 1
            continue
        waveform_into(waveforms[filled].numpy(), clip.pcm)
        filled += 1
    if not filled:
        raise UsageError(f"{folder}: none of its {rejected} recordings can be decoded; give another folder")
    if filled < clips or rejected:
        print(f"{folder}: {filled} clips compared, {rejected} recordings left out: not decodable", file=sys.stderr)
    return waveforms[:filled]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
