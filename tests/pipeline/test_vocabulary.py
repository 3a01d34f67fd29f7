"""The class lists against the published files, hash and counts; projection against a brute-force join."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import (
    MetadataError,
    Vocabulary,
    audioset_mids,
    audioset_strong_447,
    audioset_strong_456,
    audioset_weak_527,
    class_name,
    projection,
)


def test_447_names_have_the_published_hash() -> None:
    vocabulary = audioset_strong_447()
    assert len(vocabulary) == 447
    digest = hashlib.sha256("\n".join(vocabulary.names).encode()).hexdigest()
    assert digest == "db048a1f22e917e33a2a4a131f3549edb8af6b49d019efa32388daa524b44c15"


def test_published_overlaps() -> None:
    weak, strong, trained = audioset_weak_527(), audioset_strong_456(), audioset_strong_447()
    assert (len(weak), len(strong)) == (527, 456)
    assert len(set(weak.mids) & set(strong.mids)) == 382
    assert len(set(weak.mids) & set(trained.mids)) == 376
    assert len(audioset_mids()) == len(set(weak.mids) | set(strong.mids)) == 601


def test_weak_list_is_the_official_file(shared: Path) -> None:
    with (shared / "data" / "class_labels_indices.csv").open(encoding="utf-8", newline="") as file:
        official = list(csv.reader(file))[1:]
    vocabulary = audioset_weak_527()
    assert [[str(i), *row] for i, row in enumerate(zip(vocabulary.mids, vocabulary.names, strict=True))] == official


def test_strong_list_is_the_official_file(shared: Path) -> None:
    lines = (shared / "data" / "mid_to_display_name.tsv").read_text(encoding="utf-8").splitlines()
    vocabulary = audioset_strong_456()
    assert [f"{mid}\t{name}" for mid, name in zip(vocabulary.mids, vocabulary.names, strict=True)] == lines


def test_twelve_mids_have_two_names_and_show_the_strong_one() -> None:
    weak = dict(zip(audioset_weak_527().mids, audioset_weak_527().names, strict=True))
    strong = dict(zip(audioset_strong_456().mids, audioset_strong_456().names, strict=True))
    differing = [mid for mid in strong if mid in weak and weak[mid] != strong[mid]]
    assert len(differing) == 12
    assert all(class_name(mid) == strong[mid] for mid in differing)
    assert class_name("/m/0199g") == "Bicycle, tricycle"
    weak_only = next(mid for mid in weak if mid not in strong)
    assert class_name(weak_only) == weak[weak_only]
    assert class_name("/m/of_nobody") == "/m/of_nobody"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (audioset_weak_527(), audioset_strong_447()),
        (audioset_strong_447(), audioset_weak_527()),
        (audioset_strong_456(), audioset_strong_447()),
    ],
)
def test_projection_is_a_join_by_mid(source: Vocabulary, target: Vocabulary) -> None:
    columns = projection(source, target)
    assert columns.dtype == np.int64
    assert columns.tolist() == [source.mids.index(mid) if mid in source.mids else -1 for mid in target.mids]


def test_projection_is_cached_and_cannot_be_written_to() -> None:
    columns = projection(audioset_weak_527(), audioset_strong_447())
    assert columns is projection(audioset_weak_527(), audioset_strong_447())
    with pytest.raises(ValueError, match="read-only"):
        columns[0] = 3


def test_strict_projection_names_what_is_missing() -> None:
    source = Vocabulary(("/m/09x0r",), ("Speech",))
    target = Vocabulary(("/m/09x0r", "/m/0bt9lr"), ("Speech", "Dog"))
    assert projection(source, source, strict=True).tolist() == [0]
    with pytest.raises(MetadataError, match=r"lacks 1 of the 2 needed: Dog \(/m/0bt9lr\)"):
        projection(source, target, strict=True)
    with pytest.raises(MetadataError, match="and 61 more"):
        projection(audioset_weak_527(), audioset_strong_447(), strict=True)
