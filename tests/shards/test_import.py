"""Importing whole files of frame labels: what arrives is what the file has, what cannot be right is refused."""

import re
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from pipeline import FormatError, MetadataError, UsageError, audioset_strong_447, hard_table, write_hard
from shards import AudioShardWriter, Dataset, ForeignFiles, export_labels, import_labels, verify
from tests.shards.import_examples import SPEC, Example, shifted, stored_labels, write_example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return write_example(tmp_path_factory.mktemp("imported") / "data")


def write_sed(path: Path, names: list[str], logits: npt.NDArray[np.generic], **options: object) -> ForeignFiles:
    with h5py.File(path, "w") as file:
        file.create_dataset("filenames", data=np.array([name.encode() for name in names], dtype=np.bytes_))
        file.create_dataset("strong_logits", data=logits, **options)
    return ForeignFiles(format="pretrained-sed", files=(path,))


def test_labels_arrive_bit_for_bit_and_leave_again(example: Example, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(example.keys))
    logits = example.logits[order].copy()
    logits[:, 446, :3] = np.float16(-0.0)
    source = write_sed(tmp_path / "a.h5", [example.names[i] for i in order], logits)
    report = import_labels(example.dataset, "strong", "there", source)
    assert (report.stored, report.failed, report.coverage.extra) == (len(order), {}, 0)
    assert report.agreement is not None
    assert report.agreement.auc > 0.95
    assert report.lag is not None
    assert abs(report.lag.lag_ms) <= 5
    stored = stored_labels(example.dataset, "strong", "there")
    for row, i in enumerate(order):
        got = stored[example.keys[i]].astype(np.float16)
        assert (got.view(np.uint16) == logits[row].view(np.uint16)).all()

    out = tmp_path / "back.h5"
    exported = export_labels(example.dataset, "strong", "there", out)
    assert (exported.exported, exported.without_label) == (len(order), 0)
    with h5py.File(out) as file:
        assert file["strong_logits"].dtype == np.dtype("<f2")
        names = [name.decode("UTF-8") for name in file["filenames"]]
        assert sorted(names) == sorted(example.names)
        row_of = {example.names[i]: row for row, i in enumerate(order)}
        for name, got in zip(names, file["strong_logits"][:], strict=True):
            assert (got.view(np.uint16) == logits[row_of[name]].view(np.uint16)).all()

    again = import_labels(example.dataset, "strong", "again", ForeignFiles(format="pretrained-sed", files=(out,)))
    assert again.stored == len(order)
    export_labels(example.dataset, "strong", "again", tmp_path / "twice.h5")
    with h5py.File(out) as first, h5py.File(tmp_path / "twice.h5") as second:
        assert (first["strong_logits"][:].view(np.uint16) == second["strong_logits"][:].view(np.uint16)).all()


@pytest.mark.parametrize(
    "options",
    [{"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (3, 447, 250)}, {"chunks": (1, 100, 250)}],
    ids=["gzip", "chunks across classes"],
)
def test_layouts_of_one_array_are_the_same_labels(example: Example, tmp_path: Path, options: dict[str, object]) -> None:
    source = write_sed(tmp_path / "a.h5", example.names, example.logits, **options)
    import_labels(example.dataset, "strong", tmp_path.name[:40].replace("_", "-").lower(), source)
    stored = stored_labels(example.dataset, "strong", tmp_path.name[:40].replace("_", "-").lower())
    assert all((stored[key] == example.logits[row]).all() for row, key in enumerate(example.keys))


def test_rows_of_ragged_arrays_and_texts_are_read_too(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "ragged.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("filenames", data=example.names, dtype=h5py.string_dtype())
        rows = file.create_dataset("strong_logits", (len(example.names), 447), dtype=h5py.vlen_dtype(np.float16))
        for i in range(len(example.names)):
            rows[i] = list(example.logits[i])
    import_labels(example.dataset, "strong", "ragged", ForeignFiles(format="pretrained-sed", files=(path,)))
    stored = stored_labels(example.dataset, "strong", "ragged")
    assert all((stored[key] == example.logits[row]).all() for row, key in enumerate(example.keys))


def test_every_spelling_is_found_and_what_is_missing_has_its_reason(example: Example, tmp_path: Path) -> None:
    names = []
    for i, key in enumerate(example.keys):
        ytid, _, start = key.rpartition("_")
        seconds = int(start) // 1000
        spellings = (
            ytid, f"Y{ytid}", f"Y{ytid}.mp3", f"Y{ytid}.wav", f"07/Y{ytid}.flac", f"{ytid}_{start}", f"{ytid}.mp3",
            f"{ytid}_{seconds}.000", f"{ytid}_{seconds}.000_{seconds + 10}.000.wav", f"{ytid}_{seconds}-{seconds + 10}",
            f"id_{ytid}",
        )  # fmt: skip
        names.append(spellings[i % len(spellings)])
    kept = [i for i in range(len(names)) if i % 10]
    logits = example.logits.copy()
    logits[1, 3, 4] = np.nan
    logits[2, 3, 4] = np.inf
    extra = ["Yzzzzzzzzzzz.mp3", "not an id at all", "YAAAAAAAAAAA.mp3"]
    rows = np.concatenate([logits[kept], logits[:3]])
    source = write_sed(tmp_path / "a.h5", [names[i] for i in kept] + extra, rows)
    report = import_labels(example.dataset, "strong", "spelled", source)
    assert (report.coverage.matched, report.coverage.extra, report.coverage.missing) == (108, 3, 12)
    assert report.coverage.examples["extra"] == tuple(extra)
    assert report.failed == {"absent": 12, "not_finite": 2}
    assert set(stored_labels(example.dataset, "strong", "spelled")) == {
        key for i, key in enumerate(example.keys) if i % 10 and i not in (1, 2)
    }
    assert "108 of the 120 clips matched" in report.lines()[0]
    out = tmp_path / "out.h5"
    assert export_labels(example.dataset, "strong", "spelled", out).without_label == 14


def test_two_names_of_one_clip_are_refused(example: Example, tmp_path: Path) -> None:
    names = [*example.names[:-1], example.names[0].removesuffix(".mp3")]
    with pytest.raises(MetadataError, match="both are clip"):
        import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "a.h5", names, example.logits))


def test_a_name_that_can_mean_several_clips_is_counted_not_guessed(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=12)
    from shards.foreign._names import NameMatcher

    matcher = NameMatcher(frozenset({"AAAAAAAAAAA_0", "AAAAAAAAAAA_30000", *example.keys}), "audioset")
    assert matcher.match("YAAAAAAAAAAA.mp3", "f") is None
    assert matcher.match("AAAAAAAAAAA_30000", "f") == "AAAAAAAAAAA_30000"
    assert (matcher.coverage().ambiguous, matcher.coverage().matched) == (1, 1)


def test_paths_are_found_in_a_dataset_of_paths() -> None:
    from shards.foreign._names import NameMatcher

    matcher = NameMatcher(frozenset({"a%2Fb%20c%2Ewav_0", "d%2Ewav_0", "d%2Ewav_10000"}), "path")
    assert matcher.match("a/b c.wav", "f") == "a%2Fb%20c%2Ewav_0"
    assert matcher.match("d%2Ewav_10000", "f") == "d%2Ewav_10000"
    assert matcher.match("b c.wav", "f") is None


def test_a_wrong_class_order_is_refused_and_named(example: Example, tmp_path: Path) -> None:
    by_mid = np.argsort(audioset_strong_447().mids)
    source = write_sed(tmp_path / "a.h5", example.names, example.logits[:, by_mid])
    with pytest.raises(UsageError, match="another class order: 'sorted by MID' fits"):
        import_labels(example.dataset, "strong", "x", source)
    assert not example.dataset.label_shards("strong", "x")


def test_an_unknown_class_order_and_a_wrong_index_are_told_apart(example: Example, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mixed = write_sed(tmp_path / "a.h5", example.names, example.logits[:, rng.permutation(447)])
    with pytest.raises(UsageError, match=r"; other columns .* in an order that is not known"):
        import_labels(example.dataset, "strong", "x", mixed)
    names = [example.names[i] for i in rng.permutation(len(example.names))]
    wrong = write_sed(tmp_path / "b.h5", names, example.logits)
    with pytest.raises(UsageError, match=r"; no column fits .*a wrong index"):
        import_labels(example.dataset, "strong", "x", wrong)
    report = import_labels(example.dataset, "strong", "forced", wrong, unchecked=True, allow_lag=True)
    assert report.stored == len(names)
    assert example.dataset.label_shards("strong", "forced")[0].provenance["found"]["agreement"]["fits"] is False


@pytest.mark.parametrize("frames", [-13, -2, 2, 25])
def test_a_lag_is_measured_and_refused(example: Example, tmp_path: Path, frames: int) -> None:
    source = write_sed(tmp_path / "a.h5", example.names, shifted(example.logits, frames))
    with pytest.raises(UsageError) as refused:
        import_labels(example.dataset, "strong", "x", source)
    found = re.search(r"are (\d+) ms (late|early) against the strong hard labels", str(refused.value))
    assert found is not None
    assert abs(int(found[1]) - abs(frames) * 40) <= 10
    assert found[2] == ("late" if frames > 0 else "early")


def test_single_clips_cut_elsewhere_are_named(example: Example, tmp_path: Path) -> None:
    logits = example.logits.copy()
    logits[[5, 40, 77]] = shifted(logits[[5, 40, 77]], 20)
    source = write_sed(tmp_path / "a.h5", example.names, logits)
    report = import_labels(example.dataset, "strong", "cut", source)
    assert report.lag is not None
    assert dict(report.lag.outlier_keys) == {example.keys[i]: 800 for i in (5, 40, 77)}
    lag, clear, away = report.lines()[-4:-1]
    assert re.fullmatch(r"lag against the strong hard labels: (0 ms|\d ms (late|early)) over \d+ clips", lag)
    assert re.fullmatch(
        r"  clip by clip, where it is clear \(\d+\): half of them within -?\d+ to -?\d+ ms, nine in ten within "
        r"-?\d+ to -?\d+ ms", clear,
    )  # fmt: skip
    named = ", ".join(f"{key} at 800 ms" for key in sorted(example.keys[i] for i in (5, 40, 77)))
    assert sorted(away) == sorted(f"  200 ms or more away from that: 3 clips ({named})")


def test_without_hard_labels_it_has_to_be_asked_for(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=24)
    write_hard(example.dataset.hard_path("strong"), hard_table(example.keys))
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)
    with pytest.raises(UsageError, match=r"cannot be checked.*--unchecked"):
        import_labels(example.dataset, "strong", "a", source)
    with pytest.raises(UsageError, match=r"lag .* cannot be estimated.*--reference"):
        import_labels(example.dataset, "strong", "a", source, unchecked=True)
    report = import_labels(example.dataset, "strong", "a", source, unchecked=True, allow_lag=True)
    assert report.stored == 24
    compared = import_labels(example.dataset, "strong", "b", source, unchecked=True, reference="a")
    assert compared.lag is not None
    assert (compared.lag.lag_ms, compared.lag.against) == (0, "label set a")
    late = write_sed(tmp_path / "b.h5", example.names, shifted(example.logits, 3))
    with pytest.raises(UsageError, match="120 ms late against label set a"):
        import_labels(example.dataset, "strong", "c", late, unchecked=True, reference="a")


def test_probabilities_are_not_taken_for_logits(example: Example, tmp_path: Path) -> None:
    probabilities = (1 / (1 + np.exp(-example.logits.astype(np.float32)))).astype(np.float16)
    source = write_sed(tmp_path / "a.h5", example.names, probabilities)
    with pytest.raises(
        UsageError, match=r"look like probabilities, the format has logits; convert .*log\(p / \(1 - p\)\)"
    ):
        import_labels(example.dataset, "strong", "sigmoid", source)
    assert not example.dataset.labels_folder("strong", "sigmoid").exists()
    told = import_labels(example.dataset, "strong", "sigmoid", source, unchecked=True).lines()
    assert [line for line in told if "imported although the labels lie between" in line]

    one = probabilities.copy()
    one[7, 440, 3] = -1
    report = import_labels(example.dataset, "strong", "one-below", write_sed(tmp_path / "b.h5", example.names, one))
    assert (report.values.lowest, report.values.problem) == (-1, "")
    clipped = np.clip(probabilities.astype(np.float32), 1e-6, 1 - 1e-6)
    back = write_sed(tmp_path / "c.h5", example.names, np.log(clipped / (1 - clipped)))
    assert import_labels(example.dataset, "strong", "converted", back).stored == len(example.names)


def test_nan_is_told_before_what_follows_from_it(example: Example, tmp_path: Path) -> None:
    logits = example.logits.copy()
    logits[:, 3, 4] = np.nan
    with pytest.raises(UsageError, match=r"^the labels of 120 of the 120 clips examined hold NaN or infinity; get"):
        import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "a.h5", example.names, logits))
    logits[:2] = example.logits[:2]
    with pytest.raises(UsageError, match=r"^the labels of 118 of the 120 clips .*; without them class order and names"):
        import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "b.h5", example.names, logits))
    logits[:118] = example.logits[:118]
    report = import_labels(example.dataset, "strong", "two-nan", write_sed(tmp_path / "c.h5", example.names, logits))
    assert report.failed == {"not_finite": 2}
    assert "  the labels of 2 of the 120 clips examined hold NaN or infinity" in report.lines()


def test_a_second_run_does_what_is_missing(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=30)
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)
    import_labels(example.dataset, "strong", "set", source)
    folder = example.dataset.labels_folder("strong", "set")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "000001.json").unlink()
    (folder / "000001.tar").unlink()
    report = import_labels(example.dataset, "strong", "set", source)
    assert (report.shards, report.shards_kept, report.stored) == (3, 2, 30)
    shards = {name for name in before if name.startswith("0")}
    assert {name: (folder / name).read_bytes() for name in shards} == {name: before[name] for name in shards}
    assert not verify(example.dataset.root)
    other = write_sed(tmp_path / "b.h5", example.names, example.logits + np.float16(1))
    with pytest.raises(UsageError, match="another --labels name"):
        import_labels(example.dataset, "strong", "set", other)
    with pytest.raises(UsageError, match="asks for faithful"):
        import_labels(example.dataset, "strong", "set", source, codec="faithful")


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=30)
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing clips" and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(example.dataset, "strong", "set", source, progress=stop)
    folder = example.dataset.labels_folder("strong", "set")
    assert {path.name for path in folder.iterdir()} == {
        "000000.json", "000000.tar", "000001.json", "000001.tar", "commands.json"
    }  # fmt: skip
    report = import_labels(example.dataset, "strong", "set", source)
    assert (report.shards_kept, report.stored) == (2, 30)


def test_clips_packed_later_join_the_same_label_set(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=60)
    logits = example.logits.copy()
    logits[52:] = -7  # so that what is found of all clips is not what is found of the first ones
    source = write_sed(tmp_path / "a.h5", example.names, logits)
    audio = example.dataset.audio_folder("strong", SPEC.name)
    (audio / "000002.json").rename(tmp_path / "later.json")
    assert import_labels(example.dataset, "strong", "set", source).shards == 2
    (tmp_path / "later.json").rename(audio / "000002.json")
    report = import_labels(example.dataset, "strong", "set", source)
    assert (report.shards, report.shards_kept, report.coverage.missing) == (3, 2, 0)
    assert len({side.fingerprint for side in example.dataset.label_shards("strong", "set")}) == 1
    assert not verify(example.dataset.root)


def write_noise(example: Example, shard: int, keys: list[str]) -> None:
    rng = np.random.default_rng(shard)
    folder = example.dataset.audio_folder("strong", SPEC.name)
    with AudioShardWriter(folder, shard, spec=SPEC, provenance={"made": "anew"}, codec="pcm16") as writer:
        for key in keys:
            writer.add(key, rng.integers(-9000, 9000, 10_000).astype(np.int16), origin="mp3")
        writer.commit()


@pytest.mark.parametrize("shard", [0, 2])
def test_nothing_is_added_to_labels_of_audio_that_was_sharded_anew(tmp_path: Path, shard: int) -> None:
    """A clip would be labelled twice. The labels that are there stay right: nothing tells to remove them."""
    example = write_example(tmp_path / "data", clips=30)
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)
    import_labels(example.dataset, "strong", "set", source)
    folder, audio = example.dataset.labels_folder("strong", "set"), example.dataset.audio_folder("strong", SPEC.name)
    for suffix in ("json", "tar"):
        (folder / f"000000.{suffix}").unlink()
        for number in (1, 2):
            (audio / f"00000{number}.{suffix}").unlink()
    write_noise(example, 0, example.keys[:20])
    if shard:
        write_noise(example, shard, example.keys[20:])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        UsageError, match="use another --labels name, or import into the dataset as it was packed"
    ) as told:
        import_labels(example.dataset, "strong", "set", source)
    assert "remove" not in str(told.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_labels_of_an_audio_shard_that_is_gone_are_let_be(tmp_path: Path) -> None:
    example = write_example(tmp_path / "data", clips=30)
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)
    import_labels(example.dataset, "strong", "set", source)
    for suffix in ("json", "tar"):
        (example.dataset.audio_folder("strong", SPEC.name) / f"000002.{suffix}").unlink()
        (example.dataset.labels_folder("strong", "set") / f"000000.{suffix}").unlink()
    report = import_labels(example.dataset, "strong", "set", source)
    assert (report.shards, report.shards_kept, report.stored) == (2, 1, 20)
    assert len(stored_labels(example.dataset, "strong", "set")) == 30


def test_names_do_not_command_a_terminal(example: Example, tmp_path: Path) -> None:
    names = [*example.names[:-1], "\x1b[2J\u202e\x9b.mp3"]
    report = import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "a.h5", names, example.logits))
    assert all(line.isprintable() for line in report.lines())
    assert report.coverage.examples["extra"] == (r"\x1b[2J\u202e\x9b.mp3",)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["\x1b]0;title\x07"] = [1]
    with pytest.raises(FormatError, match=r"but \\x1b\]0;title\\x07;"):
        import_labels(example.dataset, "strong", "y", ForeignFiles(format="pretrained-sed", files=(tmp_path / "b.h5",)))


def test_a_stored_key_that_no_name_can_spell_is_not_matched() -> None:
    from shards.foreign._names import NameMatcher

    odd = (f"AAAAAAAAAAA_{'9' * 60}", f"BBBBBBBBBBB_{1 << 63}", "CCCCCCCCCCCC_0")
    matcher = NameMatcher(frozenset({*odd, "DDDDDDDDDDD_0"}), "audioset")
    names = (*odd, "AAAAAAAAAAA", "BBBBBBBBBBB", "CCCCCCCCCCC", "DDDDDDDDDDD")
    assert [matcher.match(name, "f") for name in names] == [None] * 6 + ["DDDDDDDDDDD_0"]
    assert (matcher.coverage().matched, matcher.coverage().missing, matcher.coverage().extra) == (1, 3, 6)


def test_a_file_of_other_clips_is_refused(example: Example, tmp_path: Path) -> None:
    names = [f"YAAAAAAAAA{i:02d}.mp3" for i in range(4)]
    with pytest.raises(UsageError, match="none of its 4 names"):
        import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "a.h5", names, example.logits[:4]))


def test_names_and_labels_have_to_be_as_many(example: Example, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="119 names and 120 labels"):
        import_labels(example.dataset, "strong", "x", write_sed(tmp_path / "a.h5", example.names[:-1], example.logits))


def test_labels_of_10_s_need_clips_of_10_s(tmp_path: Path, example: Example) -> None:
    from tests.shards.dataset_examples import write_dataset

    short = write_dataset(tmp_path / "short")
    source = write_sed(tmp_path / "a.h5", example.names, example.logits)
    with pytest.raises(UsageError, match="labels clips of 10000 ms"):
        import_labels(short, "weak", "x", source)


def test_what_no_format_takes_is_refused() -> None:
    path = (Path("f"),)
    for wrong in (
        {"format": "sed", "files": path},
        {"format": "pretrained-sed", "files": path * 2},
        {"format": "pretrained-sed", "files": path, "index": path},
        {"format": "pretrained-sed", "files": path, "tail": "zero"},
        {"format": "efficientat", "files": path},
        {"format": "ced", "files": path, "index": path},
        {"format": "ced", "files": path, "tail": "zero"},
        {"format": "ced", "files": path, "index": path, "tail": "absent"},
        {"format": "ced", "files": path, "index": path, "tail": "constant=2"},
        {"format": "sat", "files": path, "tail": "zero"},
        {"format": "sat", "files": path, "tail": "zero", "chunk_ms": 2_000, "augmented": True},
        {"format": "efficientat", "files": path, "index": path, "chunk_ms": 2_000},
    ):
        with pytest.raises(UsageError):
            ForeignFiles(**wrong)  # type: ignore[arg-type]


def test_dataset_can_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        import_labels(tmp_path, "weak", "x", ForeignFiles(format="pretrained-sed", files=(tmp_path,)))
    assert Dataset(tmp_path).root == tmp_path
