"""Whether a dataset is whole: every file against its sidecar, and the sidecars against each other."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pipeline import FormatError, read_hard
from shards._dataset import Dataset, sidecar_paths
from shards._manifest import MANIFEST_NAME, ManifestRow, by_shard, read_manifest, rows_sha256
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._sidecar_parse import read_audio_sidecar, read_label_sidecar
from shards._verify_tar import Problem, tar_problems

_AnySidecar = TypeVar("_AnySidecar", AudioSidecar, LabelSidecar)
Progress = Callable[[int, int], None]


@dataclass
class _Folder(Generic[_AnySidecar]):
    """The sidecars of one folder that could be read, by number; the numbers of those that could not; what was found."""

    path: Path
    sidecars: dict[int, _AnySidecar] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def verify(root: str | Path, quick: bool = False, progress: Progress | None = None) -> tuple[Problem, ...]:
    """Every problem of the dataset at `root`; none if it is whole.

    quick: sidecars, sizes, completeness, and labels against audio; reads no tar. Otherwise every byte of every tar is
    checked and every clip and label decoded. progress(done, total) is called after every shard.
    Raises UsageError if there is no dataset at `root`.
    """
    dataset = Dataset(root)
    problems = list(_description_problems(dataset))
    total = sum(len(sidecar_paths(folder)) for folder in _folders(dataset))
    done = 0

    def check_tar(sidecar: AudioSidecar | LabelSidecar) -> list[Problem]:
        nonlocal done
        found = tar_problems(sidecar, quick=quick)
        done += 1
        if progress:
            progress(done, total)
        return found

    split_of: dict[str, str] = {}
    for split in dataset.splits():
        hard_keys, hard_problems = _hard_keys(dataset, split)
        problems += hard_problems
        audio_of = {}
        stored: set[str] = set()
        for spec_name in dataset.audio_specs(split):
            folder = _read(dataset.audio_folder(split, spec_name), read_audio_sidecar)
            audio_of[spec_name] = folder
            problems += folder.problems
            problems += _audio_problems(folder)
            for sidecar in folder.sidecars.values():
                problems += check_tar(sidecar)
                problems += _key_problems(sidecar, split, split_of, hard_keys)
                stored.update(sidecar.clips.key)
        split_of.update(dict.fromkeys(stored, split))
        for label_set in dataset.label_sets(split):
            labels = _read(dataset.labels_folder(split, label_set), read_label_sidecar)
            problems += labels.problems
            problems += _label_problems(labels, audio_of)
            for label_sidecar in labels.sidecars.values():
                problems += check_tar(label_sidecar)
    return tuple(problems)


def _description_problems(dataset: Dataset) -> Iterator[Problem]:
    description = dataset.root / "dataset.json"
    if not dataset.splits():
        Dataset.open(dataset.root)
    elif not description.is_file():
        yield Problem(description, None, "dataset", "is missing; restore it")
        return
    try:
        _ = dataset.keys
    except FormatError as error:
        yield Problem(description, None, "dataset", _detail(error, description))


def _folders(dataset: Dataset) -> Iterator[Path]:
    for split in dataset.splits():
        yield from (dataset.audio_folder(split, spec_name) for spec_name in dataset.audio_specs(split))
        yield from (dataset.labels_folder(split, label_set) for label_set in dataset.label_sets(split))


def _read(path: Path, read: Callable[[Path], _AnySidecar]) -> _Folder[_AnySidecar]:
    folder: _Folder[_AnySidecar] = _Folder(path)
    for sidecar_path in sidecar_paths(path):
        number = int(sidecar_path.stem)
        try:
            folder.sidecars[number] = read(sidecar_path)
        except FormatError as error:
            folder.unreadable.add(number)
            folder.problems.append(Problem(sidecar_path, None, "sidecar", _detail(error, sidecar_path)))
    return folder


def _audio_problems(folder: _Folder[AudioSidecar]) -> Iterator[Problem]:
    for sidecar in folder.sidecars.values():
        if sidecar.spec.name != folder.path.name:
            detail = f"is of {sidecar.spec.name}; move it and its tar where they belong"
            yield Problem(sidecar.path, None, "sidecar", detail)
    counts = Counter(key for sidecar in folder.sidecars.values() for key in sidecar.clips.key)
    for sidecar in folder.sidecars.values():
        for key in sidecar.clips.key:
            if counts[key] > 1:
                yield Problem(
                    sidecar.path, key, "duplicate", f"is stored {counts[key]} times in {folder.path}; keep one"
                )
    manifest_path = folder.path / MANIFEST_NAME
    if not manifest_path.exists():
        # Hand-made shards need none; packed ones were made from one, and without it a lost last shard is not missed.
        if any("manifest_sha256" in sidecar.provenance for sidecar in folder.sidecars.values()):
            yield Problem(manifest_path, None, "manifest", "is missing; restore it or pack the split again")
        yield from _missing(folder, range(max((*folder.sidecars, *folder.unreadable, -1)) + 1))
        return
    try:
        wanted = by_shard(read_manifest(manifest_path))
    except FormatError as error:
        yield Problem(manifest_path, None, "manifest", _detail(error, manifest_path))
        return
    yield from _missing(folder, wanted)
    for number, sidecar in folder.sidecars.items():
        yield from _accounting_problems(sidecar, wanted.get(number, ()))


def _missing(folder: _Folder[AudioSidecar] | _Folder[LabelSidecar], expected: Iterable[int]) -> Iterator[Problem]:
    """Shards that should be there. A tar without a sidecar was not finished, or its sidecar was deleted."""
    tars = {int(path.stem) for path in folder.path.glob("[0-9][0-9][0-9][0-9][0-9][0-9].tar")}
    for number in sorted({*expected, *tars} - {*folder.sidecars, *folder.unreadable}):
        has = "has a tar but no sidecar" if number in tars else "is not there"
        path = folder.path / f"{number:06d}.json"
        yield Problem(path, None, "incomplete", f"shard {has}; run the command that writes {folder.path} again")


def _accounting_problems(sidecar: AudioSidecar, rows: tuple[ManifestRow, ...]) -> Iterator[Problem]:
    """Every clip that the manifest wants in this shard is stored or rejected, and no other, from what it names."""
    wanted = {row.key for row in rows}
    accounted = {*sidecar.clips.key, *sidecar.rejected.key}
    for keys, what in (
        (wanted - accounted, "neither stored nor rejected"),
        (accounted - wanted, "not in the manifest"),
    ):
        if keys:
            detail = f"{len(keys)} clips, this one first, are {what} for this shard; write the shard again"
            yield Problem(sidecar.path, min(keys), "manifest", detail)
    if wanted == accounted and sidecar.provenance.get("manifest_sha256", rows_sha256(rows)) != rows_sha256(rows):
        yield Problem(sidecar.path, None, "manifest", "was packed from other rows than the manifest has; restore it")


def _key_problems(
    sidecar: AudioSidecar, split: str, split_of: dict[str, str], hard_keys: set[str] | None
) -> Iterator[Problem]:
    for key in sidecar.clips.key:
        if key in split_of:
            yield Problem(sidecar.path, key, "duplicate", f"is also stored in {split_of[key]}; a clip has one split")
        if hard_keys is not None and key not in hard_keys:
            yield Problem(sidecar.path, key, "no_hard", f"has no row in hard.parquet of {split}; pack the split again")


def _hard_keys(dataset: Dataset, split: str) -> tuple[set[str] | None, list[Problem]]:
    path = dataset.hard_path(split)
    try:
        return set(read_hard(path).column("key").to_pylist()), []
    except FormatError as error:
        return None, [Problem(path, None, "hard", _detail(error, path))]


def _label_problems(labels: _Folder[LabelSidecar], audio_of: dict[str, _Folder[AudioSidecar]]) -> Iterator[Problem]:
    sidecars = list(labels.sidecars.values())
    # A label set says which audio it was made from; an empty one can be of any.
    spec_name = sidecars[0].spec.name if sidecars else next(iter(audio_of), "")
    expected = audio_of[spec_name].sidecars if spec_name in audio_of else ()
    yield from _missing(labels, expected)
    for sidecar in sidecars:
        yield from _mixed_problems(sidecar, sidecars[0])
        audio = audio_of.get(sidecar.spec.name, _Folder[AudioSidecar](labels.path))
        if sidecar.shard in audio.sidecars:
            yield from _binding_problems(sidecar, audio.sidecars[sidecar.shard])
        elif sidecar.shard not in audio.unreadable:
            detail = f"has no audio shard {sidecar.shard:06d} of {sidecar.spec.name}; restore the audio"
            yield Problem(sidecar.path, None, "orphan", detail)


def _mixed_problems(sidecar: LabelSidecar, first: LabelSidecar) -> Iterator[Problem]:
    differs = [
        what
        for what, same in (
            ("provenance", sidecar.fingerprint == first.fingerprint),
            ("target", sidecar.target == first.target),
            ("audio spec", sidecar.spec == first.spec),
        )
        if not same
    ]
    if differs:
        detail = (
            f"has another {' and '.join(differs)} than {first.path.name}; label the shard again, or into another set"
        )
        yield Problem(sidecar.path, None, "mixed", detail)


def _binding_problems(labels: LabelSidecar, audio: AudioSidecar) -> Iterator[Problem]:
    """Labels are of the clips of their audio shard: by key, in order, and by identity."""
    if labels.clips.key != audio.clips.key:
        first = _first_difference(labels.clips.key, audio.clips.key)
        detail = f"its clips are not those of {audio.path} in their order; label the shard again"
        yield Problem(labels.path, first, "order", detail)
        return
    for row, key in enumerate(labels.clips.key):
        if (labels.clips.identity[row], labels.clips.samples[row]) != (
            audio.clips.identity[row],
            audio.clips.samples[row],
        ):
            yield Problem(
                labels.path, key, "stale", "was labelled from other audio than is stored; label the shard again"
            )


def _first_difference(keys: Sequence[str], others: Sequence[str]) -> str:
    same = next(
        (row for row, (a, b) in enumerate(zip(keys, others, strict=False)) if a != b), min(len(keys), len(others))
    )
    return (*keys[same:], *others[same:])[0]


def _detail(error: FormatError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
