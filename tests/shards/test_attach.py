"""A published label set on other copies of its clips; what was done to each copy says what must become of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soxr

from pipeline import AudioSpec, IntegrityError, UsageError
from sed_distill.cli import main
from shards import (
    ATTACH_REPORT_NAME,
    Dataset,
    LabelShardWriter,
    attach_labels,
    fingerprint,
    open_index,
    read_commands,
    verify,
)
from tests.shards.attach_examples import (
    FAILED,
    KEYS,
    MADE,
    SILENT,
    SPEC,
    TARGET,
    Pcm,
    as_mp3,
    attach,
    counts,
    files,
    label_of,
    make_originals,
    member_of,
    publish,
    reasons,
    soundscape,
    stored_labels,
    to_int16,
    write_audio,
)


@pytest.fixture(scope="module")
def originals() -> dict[str, Pcm]:
    return make_originals()


@pytest.fixture(scope="module")
def published(originals: dict[str, Pcm], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("lab"), originals)


def test_the_same_decode_however_it_is_sharded(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    mixed = dict(sorted(originals.items(), key=lambda item: item[0][::-1])) | {"stranger_0": originals[KEYS[0]]}
    dataset = write_audio(tmp_path / "copy", mixed, clips_per_shard=4)
    report = attach(dataset, published)
    assert counts(report) == {"absent": 1, "same_decode": 12, "no_label": 1}
    assert (report.attached, report.extra, report.shards, report.shards_kept, report.problem) == (12, 0, 4, 0, "")
    expected = {key: member_of(key) if key not in (FAILED, "stranger_0") else None for key in mixed}
    assert stored_labels(dataset) == expected
    assert reasons(dataset) == {
        FAILED: ("not_finite", "logits hold NaN"),
        "stranger_0": ("absent", "the attached label set does not have this clip"),
    }
    assert not verify(dataset.root)
    made = {side.fingerprint: side.provenance for side in dataset.label_shards("weak", "teacher")}
    (provenance,) = made.values()
    assert provenance == MADE | {
        "attached": [{"stage_version": 1, "audio": SPEC.to_json(), "fingerprint": fingerprint(MADE)}]
    }


def test_attached_once_more(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    """What was attached can be published in its turn; the provenance tells of both."""
    first = write_audio(tmp_path / "first", originals, clips_per_shard=20)
    attach(first, published)
    second = write_audio(tmp_path / "second", originals, clips_per_shard=3)
    report = attach(second, first.labels_folder("weak", "teacher"))
    assert report.attached == 12
    assert stored_labels(second) == stored_labels(first)
    assert len(second.label_shards("weak", "teacher")[0].provenance["attached"]) == 2
    assert not verify(second.root)


def test_part_of_the_clips_decoded_otherwise(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    copy = {key: as_mp3(originals[key]) for key in KEYS[1:11:3]}
    dataset = write_audio(tmp_path / "copy", copy, clips_per_shard=3)
    report = attach(dataset, published)
    assert counts(report) == {"confirmed": 4}
    assert (report.extra, report.refused, report.unconfirmed, report.shorter) == (9, (), (), ())
    assert set(report.extra_examples) == set(originals) - set(copy)
    assert stored_labels(dataset) == {key: member_of(key) for key in copy}
    assert not verify(dataset.root)


@pytest.mark.parametrize(
    "spec", [AudioSpec(sample_rate=32_000), AudioSpec(sample_rate=8_000), AudioSpec(layout="foa")], ids=lambda s: s.name
)
def test_other_rates_and_layouts(spec: AudioSpec, originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    copy = {}
    for key in KEYS[:4]:
        pcm = to_int16(soxr.resample(originals[key].astype(np.float32), 16_000, spec.sample_rate))
        copy[key] = pcm if spec.channels == 1 else np.stack([pcm // 2, -pcm, pcm // 3, pcm])
    dataset = write_audio(tmp_path / "copy", copy, clips_per_shard=4, spec=spec)
    report = attach(dataset, published)
    assert counts(report) == {"confirmed": 4}
    assert dataset.label_shards("weak", "teacher")[0].spec == spec
    assert not verify(dataset.root)


def test_a_shift_is_refused_by_name(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    copy = {key: as_mp3(originals[key]) for key in KEYS[:6]}
    copy[KEYS[2]] = np.pad(copy[KEYS[2]], (1280, 0))[:160_000]
    copy[KEYS[3]] = copy[KEYS[3]][640:]
    dataset = write_audio(tmp_path / "copy", copy, clips_per_shard=4)
    open_index(dataset.audio_folder("weak", SPEC.name), "audio")  # which makes a file of its own
    before = files(dataset.root)
    report = attach(dataset, published)
    assert report.refused == (
        (KEYS[2], "audio_shifted", "has its sound 80 ms later than the audio that was labelled"),
        (KEYS[3], "audio_shifted", "has its sound 40 ms earlier than the audio that was labelled"),
    )
    assert report.problem.startswith("2 clips are refused, more than --max-refused 0")
    assert attach(dataset, published, max_refused=1).problem
    assert not dataset.labels_folder("weak", "teacher").exists()
    assert files(dataset.root) == before

    report = attach(dataset, published, max_refused=2)
    assert (report.problem, report.attached) == ("", 4)
    assert stored_labels(dataset) == {key: None if key in KEYS[2:4] else member_of(key) for key in copy}
    assert {key: reason for key, (reason, _) in reasons(dataset).items()} == dict.fromkeys(KEYS[2:4], "audio_shifted")
    assert not verify(dataset.root)


def test_another_recording_is_refused_by_name(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    copy = {KEYS[0]: originals[KEYS[1]], KEYS[1]: originals[KEYS[1]], KEYS[2]: originals[SILENT]}
    report = attach(write_audio(tmp_path / "copy", copy, clips_per_shard=4), published)
    assert counts(report) == {"same_decode": 1, "different": 2}
    assert report.refused == (
        (KEYS[0], "audio_differs", "sounds other than the audio that was labelled"),
        (KEYS[2], "audio_differs", "sounds other than the audio that was labelled"),
    )


def test_what_cannot_be_heard_is_counted(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    almost = originals[SILENT].copy()
    almost[::1000] = 1
    copy = {KEYS[0]: originals[KEYS[0]], SILENT: almost[: 160_000 - 640]}
    report = attach(write_audio(tmp_path / "copy", copy, clips_per_shard=4), published)
    assert counts(report) == {"same_decode": 1, "unconfirmed": 1}
    assert report.unconfirmed == (SILENT,)
    assert report.attached == 2

    copy[SILENT] = almost[: 160_000 - 656]  # then not even the length speaks for it
    report = attach(write_audio(tmp_path / "shorter", copy, clips_per_shard=4), published)
    assert report.refused == ((SILENT, "audio_differs", "is 41 ms shorter than the audio that was labelled"),)


def test_copies_cut_short_and_longer_ones(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    whole = soundscape(10)
    assert (whole[:96_000] == originals[KEYS[10]]).all()
    copy = {
        KEYS[0]: originals[KEYS[0]][:-1600],
        KEYS[1]: originals[KEYS[1]][:-640],
        KEYS[2]: originals[KEYS[2]][: 5 * 16_000],
        KEYS[10]: whole[: 96_000 + 640],
    }
    report = attach(write_audio(tmp_path / "copy", copy, clips_per_shard=4), published)
    assert counts(report) == {"confirmed": 4}
    assert report.shorter == (KEYS[0], KEYS[2])
    copy[KEYS[10]] = whole[: 96_000 + 8000]
    report = attach(write_audio(tmp_path / "longer", copy, clips_per_shard=4), published)
    assert report.refused == ((KEYS[10], "audio_differs", "is 500 ms longer than the audio that was labelled"),)


def test_nothing_in_common(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    dataset = write_audio(tmp_path / "copy", {"other_0": originals[KEYS[0]]}, clips_per_shard=4)
    report = attach(dataset, published)
    assert "no label for any clip" in report.problem
    assert report.extra == 13
    only_failed = write_audio(tmp_path / "failed", {FAILED: originals[FAILED]}, clips_per_shard=4)
    assert attach(only_failed, published).problem
    assert not (dataset.root / "weak" / "labels").exists()


def test_from_a_store(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    store = pytest.importorskip("upath", reason="universal-pathlib is not installed; stores are an optional extra")
    bucket = store.UPath("memory://labels/of/teacher")
    bucket.mkdir(parents=True)
    for path in published.iterdir():
        (bucket / path.name).write_bytes(path.read_bytes())
    copy = {key: originals[key] for key in KEYS[:7]}
    dataset = write_audio(tmp_path / "copy", copy, clips_per_shard=3)
    report = attach(dataset, "memory://labels/of/teacher")
    assert report.source == "memory://labels/of/teacher"
    assert stored_labels(dataset) == {key: member_of(key) for key in copy}
    with pytest.raises(UsageError, match="stores are only read"):
        attach(Dataset("memory://labels/of"), published)


def test_goes_on_where_it_was_stopped(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    dataset = write_audio(tmp_path / "copy", originals, clips_per_shard=4)
    folder = dataset.labels_folder("weak", "teacher")

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing label shards" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach(dataset, published, progress=stop)
    assert sorted(path.name for path in folder.glob("0*.json")) == ["000000.json", "000001.json"]
    (folder / ".partial-000002.tar").write_bytes(b"left behind")
    kept = (folder / "000000.json").stat().st_mtime_ns
    report = attach(dataset, published)
    assert (report.shards, report.shards_kept) == (4, 2)
    assert (folder / "000000.json").stat().st_mtime_ns == kept
    again = write_audio(tmp_path / "again", originals, clips_per_shard=4)
    attach(again, published)
    whole = files(again.labels_folder("weak", "teacher"))
    resumed = files(folder)
    for name in whole:
        if name[0] == "0":
            assert resumed[name] == whole[name]
    assert not verify(dataset.root)


def test_clips_that_come_later(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    some = dict(list(originals.items())[:4])
    dataset = write_audio(tmp_path / "copy", some, clips_per_shard=4)
    attach(dataset, published)
    more = {key: as_mp3(originals[key]) for key in KEYS[4:8]}
    write_audio(tmp_path / "copy", more, clips_per_shard=4, first=1)
    report = attach(dataset, published)
    assert (report.shards, report.shards_kept) == (2, 1)
    assert counts(report) == {"same_decode": 4, "confirmed": 4}
    assert set(stored_labels(dataset)) == set(KEYS[:8])


def test_the_name_is_taken(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    dataset = write_audio(tmp_path / "copy", {KEYS[0]: originals[KEYS[0]]}, clips_per_shard=4)
    (audio,) = dataset.audio_shards("weak", SPEC.name)
    folder = dataset.labels_folder("weak", "teacher")
    with LabelShardWriter(folder, audio, target=TARGET, provenance=MADE, codec="small") as writer:
        writer.add(KEYS[0], label_of(KEYS[0]))
        writer.commit()
    with pytest.raises(UsageError, match="not of this label set"):
        attach(dataset, published)
    with pytest.raises(UsageError, match="is the label set itself"):
        attach(dataset, folder)


def test_audio_replaced_since(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    dataset = write_audio(tmp_path / "copy", {KEYS[0]: originals[KEYS[0]]}, clips_per_shard=4)
    attach(dataset, published)
    write_audio(tmp_path / "copy", {KEYS[0]: as_mp3(originals[KEYS[0]])}, clips_per_shard=4)
    with pytest.raises(UsageError, match=r"000000\.json: labels other audio .*use another --labels name, or attach to"):
        attach(dataset, published)


def test_keys_that_changed_places_since(published: Path, originals: dict[str, Pcm], tmp_path: Path) -> None:
    """Both clips sound the same, so only their keys tell them apart."""
    silence = originals[SILENT]
    dataset = write_audio(tmp_path / "copy", {SILENT: silence, "other_0": silence}, clips_per_shard=4)
    attach(dataset, published)
    write_audio(tmp_path / "copy", {"other_0": silence, SILENT: silence}, clips_per_shard=4)
    with pytest.raises(UsageError, match=r"000000\.json: labels other audio"):
        attach(dataset, published)


def test_audio_sharded_anew_since(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    """The labels that are there stay right; nothing tells to remove them, and nothing is added to them."""
    dataset = write_audio(tmp_path / "copy", originals, clips_per_shard=4)
    attach(dataset, published)
    shutil.rmtree(dataset.audio_folder("weak", SPEC.name))
    write_audio(tmp_path / "copy", originals, clips_per_shard=6)
    before = files(dataset.labels_folder("weak", "teacher"))
    with pytest.raises(
        UsageError, match="use another --labels name, or attach to the dataset as it was packed"
    ) as told:
        attach(dataset, published)
    assert "remove" not in str(told.value)
    assert files(dataset.labels_folder("weak", "teacher")) == before
    assert not verify(dataset.root)


@pytest.mark.parametrize("later", [(KEYS[1], KEYS[0]), (KEYS[0], KEYS[2]), (KEYS[0],)], ids="-".join)
def test_audio_replaced_while_labels_are_written(
    originals: dict[str, Pcm], published: Path, tmp_path: Path, later: tuple[str, ...]
) -> None:
    dataset = write_audio(tmp_path / "copy", {key: originals[key] for key in KEYS[:2]}, clips_per_shard=4)

    def replace(what: str, done: int, total: int) -> None:
        if what == "comparing label shards" and done == total:
            write_audio(tmp_path / "copy", {key: originals[key] for key in later}, clips_per_shard=4)

    with pytest.raises(IntegrityError, match=r"000000\.json: was replaced since .* attach again"):
        attach(dataset, published, progress=replace)
    assert stored_labels(dataset) == {}
    assert attach(dataset, published).attached == len(later)
    assert stored_labels(dataset) == {key: member_of(key) for key in later}


def test_other_audio_under_the_same_keys_while_labels_are_written(
    originals: dict[str, Pcm], published: Path, tmp_path: Path
) -> None:
    dataset = write_audio(tmp_path / "copy", {KEYS[0]: originals[KEYS[0]]}, clips_per_shard=4)

    def replace(what: str, done: int, total: int) -> None:
        if what == "comparing label shards" and done == total:
            write_audio(tmp_path / "copy", {KEYS[0]: originals[KEYS[1]]}, clips_per_shard=4)

    with pytest.raises(IntegrityError, match="was replaced since"):
        attach(dataset, published, progress=replace)
    assert attach(dataset, published).counts["different"] == 1


def test_a_download_that_is_completed(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    """Of three published shards one is there first: what was attached without the others is written again."""
    partial = tmp_path / "partial"
    partial.mkdir()
    for suffix in ("tar", "json"):
        shutil.copy(published / f"000000.{suffix}", partial)
    mixed = dict(list(originals.items())[:5]) | dict(sorted(list(originals.items())[5:], reverse=True))
    dataset = write_audio(tmp_path / "copy", mixed, clips_per_shard=4)
    assert attach(dataset, partial).attached == 5
    shutil.copytree(published, partial, dirs_exist_ok=True)
    report = attach(dataset, partial)
    assert (report.attached, report.shards, report.shards_kept) == (12, 4, 1)
    assert stored_labels(dataset) == {key: None if key == FAILED else member_of(key) for key in mixed}
    assert reasons(dataset) == {FAILED: ("not_finite", "logits hold NaN")}
    assert attach(dataset, partial).shards_kept == 4
    assert not verify(dataset.root)


def test_a_set_that_is_published_anew(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    """The same provenance, other labels: for instance of a newer library."""
    dataset = write_audio(tmp_path / "copy", originals, clips_per_shard=4)
    attach(dataset, published)
    (audio,) = write_audio(tmp_path / "set", {KEYS[0]: originals[KEYS[0]]}, clips_per_shard=1).audio_shards(
        "weak", SPEC.name
    )
    anew = tmp_path / "anew"
    with LabelShardWriter(anew, audio, target=TARGET, provenance=MADE, codec="small") as writer:
        writer.add(KEYS[0], label_of(KEYS[1]))
        writer.commit()
    assert attach(dataset, anew).shards_kept == 0
    without = dict.fromkeys(set(originals) - {KEYS[0]})
    assert stored_labels(dataset) == without | {KEYS[0]: member_of(KEYS[1])}
    assert set(reasons(dataset).values()) == {("absent", "the attached label set does not have this clip")}


def test_wrong_use(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    clip = {KEYS[0]: originals[KEYS[0]]}
    dataset = write_audio(tmp_path / "copy", clip, clips_per_shard=4)
    with pytest.raises(UsageError, match="max refused is -1"):
        attach(dataset, published, max_refused=-1)
    with pytest.raises(UsageError, match="holds no label shard"):
        attach(dataset, published.parent)
    with pytest.raises(UsageError, match="has no clip stored as mono-8000hz-10000ms"):
        attach(dataset, published, audio="mono-8000hz-10000ms")
    with pytest.raises(UsageError, match="has no audio; run pack"):
        attach_labels(dataset, "strong", "teacher", published)
    short = AudioSpec(clip_ms=5_000)
    other = write_audio(tmp_path / "short", {KEYS[0]: originals[KEYS[0]][:80_000]}, clips_per_shard=4, spec=short)
    with pytest.raises(UsageError, match="--clip-ms 10000"):
        attach(other, published)
    write_audio(tmp_path / "short", clip, clips_per_shard=4, spec=AudioSpec(sample_rate=32_000))
    with pytest.raises(UsageError, match="name one with --audio"):
        attach(other, published)
    write_audio(tmp_path / "short", clip, clips_per_shard=4)
    assert attach(other, published).counts["same_decode"] == 1  # of several, the one that was labelled


def test_the_command(
    originals: dict[str, Pcm], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = {key: originals[key] for key in KEYS[:3]} | {
        KEYS[3]: originals[KEYS[3]][1280:],
        SILENT: originals[SILENT] + 1,
    }
    dataset = write_audio(tmp_path / "copy", copy, clips_per_shard=2)
    arguments = ["attach", "--from", str(published), "--dataset", str(dataset.root), "--split", "weak", "--labels", "l"]
    assert main(arguments) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"refused {KEYS[3]}: audio_shifted: has its sound 80 ms earlier than the audio that was labelled"
    assert told[-1].startswith("attach: nothing written: 1 clip is refused, more than --max-refused 0: find")
    assert not (dataset.root / "weak" / "labels").exists()

    assert main([*arguments, "--max-refused", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "attach: 3 shards (3 now); 5 clips = 4 labelled + 1 without label"
    assert f"unconfirmed, for too little sound or too steady a one ({SILENT})" in told
    (recorded,) = read_commands(dataset.labels_folder("weak", "l"))  # what repair gives to restore a shard
    assert recorded.arguments[:3] == ("attach", "--from", str(published))
    assert recorded.arguments[-2:] == ("--max-refused", "1")
    assert recorded.shards == (0, 1, 2)
    kept = json.loads((dataset.labels_folder("weak", "l") / ATTACH_REPORT_NAME).read_text())
    assert kept["counts"]["same_decode"] == 3
    assert kept["refused"][0][0] == KEYS[3]
    assert kept["unconfirmed"] == [SILENT]
    assert main(["attach", "--from", str(tmp_path), *arguments[3:]]) == 2
    assert "holds no label shard" in capsys.readouterr().err
