"""Packing: every clip of the manifest is stored or rejected, and equal calls give equal bytes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs import Stage, StageReport, pack_stage, run_stage
from jobs._pack import MAX_CLIPS_PER_SHARD
from pipeline import (
    ACOUSTIC_BYTES,
    AudioSpec,
    IntegrityError,
    MetadataError,
    UsageError,
    clip_from_file,
    path_key,
    read_hard,
)
from pipeline._keys import MAX_KEY_LENGTH
from sed_distill.cli import main
from shards import (
    AudioClips,
    AudioReader,
    AudioSidecar,
    Dataset,
    Refusals,
    read_manifest,
    verify,
    write_manifest,
)
from shards._sidecar import sidecar_bytes
from shards._sidecar_parse import MAX_SIDECAR_BYTES
from shards.codecs import _audio_fast

SPEC = AudioSpec().name


def pack(dataset: Path, folder: Path, **options: object) -> StageReport:
    arguments: dict[str, object] = {"split": "weak", "keys": "path"} | options
    return run_stage(pack_stage(dataset=dataset, folder=folder, **arguments), executor="local", progress=False)


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but those that tell of runs."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in ("report.json", "commands.json"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def sidecars(dataset: Path, split: str = "weak") -> tuple[AudioSidecar, ...]:
    return Dataset(dataset).audio_shards(split, SPEC)


def accounted(dataset: Path, split: str = "weak") -> Counter[str]:
    """Counts over sidecars, after checking that together they hold the manifest, each clip once."""
    found = sidecars(dataset, split)
    keys = [key for sidecar in found for key in (*sidecar.clips.key, *sidecar.rejected.key)]
    manifest = read_manifest(Dataset(dataset).audio_folder(split, SPEC) / "manifest.parquet")
    assert sorted(keys) == sorted(row.key for row in manifest)
    assert len(set(keys)) == len(keys)
    counts = Counter(reason for sidecar in found for reason in sidecar.rejected.reason)
    counts["stored"] = sum(len(sidecar.clips.key) for sidecar in found)
    return counts


def tone(path: Path, seconds: float, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(np.arange(round(seconds * rate)) * 0.1), rate)


def segments(path: Path, *rows: str) -> Path:
    path.write_text(
        "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n" + "".join(f"{row}\n" for row in rows)
    )
    return path


def test_every_recording_of_a_folder(tmp_path: Path, recordings: Path) -> None:
    report = pack(tmp_path / "d", recordings, clips_per_shard=7)
    assert report.exit_code == 0
    assert report.rejected == {"too_short": 1, "unreadable": 1}
    assert (report.clips, report.stored, report.shards) == (23, 21, 4)
    assert accounted(tmp_path / "d") == {"stored": 21, "too_short": 1, "unreadable": 1}
    assert {entry.key for entry in report.rejections} == {path_key("tiny.wav"), path_key("empty.wav")}
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "d").rglob("*.tar"))
    # What is stored is what decoding the recording alone gives.
    for sidecar in sidecars(tmp_path / "d"):
        with AudioReader(sidecar) as reader:
            for number, key in enumerate(sidecar.clips.key):
                source = next(
                    path for path in recordings.rglob("*.*") if path_key(str(path.relative_to(recordings))) == key
                )
                alone = clip_from_file(source, spec=AudioSpec())
                np.testing.assert_array_equal(reader.read(number), alone.pcm)
                assert sidecar.clips.cut_samples[number] == alone.cut_samples
    hard = read_hard(Dataset(tmp_path / "d").hard_path("weak"))
    assert hard.num_rows == 23
    assert hard.column("weak_mids").null_count == 23
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["keys"] == "path"


def test_ray_gives_the_same_bytes(tmp_path: Path, recordings: Path, embedded_ray: None) -> None:
    pack(tmp_path / "local", recordings, clips_per_shard=5, long="split")
    stage = pack_stage(
        dataset=tmp_path / "ray", split="weak", folder=recordings, keys="path", clips_per_shard=5, long="split"
    )
    assert run_stage(stage, executor="ray", workers=2, progress=False).exit_code == 0
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_long_recordings(tmp_path: Path, recordings: Path) -> None:
    pack(tmp_path / "first", recordings, long="first")
    pack(tmp_path / "split", recordings, long="split")
    clips = sidecars(tmp_path / "first")[0].clips
    number = clips.key.index(path_key("long.flac"))
    assert (clips.samples[number], clips.cut_samples[number]) == (160_000, 13 * 16_000)
    assert "cut" in clips.flags[number]
    sidecar = sidecars(tmp_path / "split")[0]
    whole = soundfile.read(recordings / "long.flac", dtype="int16")[0]
    with AudioReader(sidecar) as reader:
        pieces = [reader.read(sidecar.clips.key.index(path_key("long.flac", start))) for start in (0, 10_000, 20_000)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_audioset_segments(tmp_path: Path) -> None:
    folder, where = tmp_path / "audio", tmp_path / "lists"
    where.mkdir()
    tone(folder / "Yabcdefghij0.wav", 10.0)
    tone(folder / "x" / "abcdefghij1_30.000.flac", 9.0)  # its segment is 10 s: videos end early
    tone(folder / "abcdefghij2_5000.wav", 4.0)  # cut off
    tone(folder / "abcdefghij4.wav", 3.0)  # only in the event list
    tone(folder / "unasked.wav", 1.0)
    weak = segments(
        where / "weak.csv",
        'abcdefghij0, 0.000, 10.000, "/m/09x0r"',
        'abcdefghij1, 30.000, 40.000, "/m/09x0r,/m/04rlf"',
        'abcdefghij2, 5.000, 15.000, "/m/09x0r"',
        'abcdefghij3, 7.000, 17.000, "/m/09x0r"',
    )
    strong = where / "strong.tsv"
    strong.write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
        "abcdefghij0_0\t1.0\t2.5\t/m/09x0r\nabcdefghij4_60000\t0.0\t1.0\t/m/09x0r\n"
    )
    report = pack(tmp_path / "d", folder, split="strong", keys="audioset", weak_csv=weak, strong_tsv=strong)
    assert report.notes["extra"] == 1
    assert accounted(tmp_path / "d", "strong") == {"stored": 3, "truncated": 1, "missing": 1}
    assert {entry.key: entry.reason for entry in report.rejections} == {
        "abcdefghij2_5000": "truncated",
        "abcdefghij3_7000": "missing",
    }
    assert sidecars(tmp_path / "d", "strong")[0].clips.key == (
        "abcdefghij0_0",
        "abcdefghij1_30000",
        "abcdefghij4_60000",
    )
    hard = {row["key"]: row for row in read_hard(Dataset(tmp_path / "d").hard_path("strong")).to_pylist()}
    assert {key: row["strong_annotated"] for key, row in hard.items()} == {
        "abcdefghij0_0": True,
        "abcdefghij1_30000": False,
        "abcdefghij2_5000": False,
        "abcdefghij3_7000": False,
        "abcdefghij4_60000": True,
    }
    assert hard["abcdefghij1_30000"]["weak_mids"] == ["/m/09x0r", "/m/04rlf"]
    assert hard["abcdefghij4_60000"]["weak_mids"] is None
    assert hard["abcdefghij0_0"]["events"] == [{"onset_ms": 1000, "offset_ms": 2500, "mid": "/m/09x0r"}]


def test_more_clips_come_in_new_shards(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(recordings / "a", folder / "a")
    pack(tmp_path / "d", folder, clips_per_shard=4)
    before = {name: content for name, content in tree(tmp_path / "d").items() if "parquet" not in name}
    shutil.copytree(recordings / "b ü", folder / "A")  # sorts before the others
    (folder / "a" / "clip 00.wav").unlink()
    report = pack(tmp_path / "d", folder, clips_per_shard=4)
    assert (report.shards_done_before, report.shards_done_now, report.notes["vanished"]) == (3, 3, 1)
    assert "; 1 vanished; " in report.summary()
    assert before.items() <= tree(tmp_path / "d").items()
    assert accounted(tmp_path / "d") == {"stored": 20}
    assert read_hard(Dataset(tmp_path / "d").hard_path("weak")).num_rows == 20


def test_committed_shards_are_checked(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(recordings / "a", folder)
    pack(tmp_path / "d", folder)
    once = tree(tmp_path / "d")
    tone(folder / "clip 02.wav", 3.0)
    with pytest.raises(
        UsageError, match=r"clip%2002\.wav has .* bytes, shard 000000 was packed from .*put the old input"
    ):
        pack(tmp_path / "d", folder)
    shutil.copy(recordings / "a" / "clip 02.wav", folder)
    # Without its manifest, the clips of a shard are those that it has, if they would be packed as they are.
    manifest = Dataset(tmp_path / "d").audio_folder("weak", SPEC) / "manifest.parquet"
    manifest.unlink()
    tone(folder / "clip 02.wav", 3.0)
    with pytest.raises(UsageError, match=r"000000\.json: no manifest has its clips, and this call would"):
        pack(tmp_path / "d", folder)
    shutil.copy(recordings / "a" / "clip 02.wav", folder)
    pack(tmp_path / "d", folder, clips_per_shard=3)
    assert tree(tmp_path / "d") == once
    tar = next((tmp_path / "d").rglob("000000.tar"))
    tar.unlink()
    with pytest.raises(IntegrityError, match=r"000000\.tar: is not there"):
        pack(tmp_path / "d", folder)


def test_wrong_use(tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    weak = segments(tmp_path / "weak.csv", 'abcdefghij0, 0.000, 10.000, "/m/09x0r"')
    listed = tmp_path / "listed.csv"
    listed.write_text("path,mid\nelsewhere/x.wav,/m/09x0r\n")
    monkeypatch.chdir(tmp_path)
    d = tmp_path / "d"
    cases: list[tuple[Path, Path, dict[str, object], str]] = [
        (d, recordings, {"keys": "audioset"}, "needs a segment list"),
        (
            d,
            recordings,
            {"keys": "audioset", "weak_csv": weak},
            "none of the 23 recordings .* belongs to the 1 segments",
        ),
        (d, recordings, {"keys": "audioset", "weak_csv": weak, "long": "split"}, "cannot split"),
        (d, recordings, {"keys": "guess"}, "need audioset or path"),
        (d, recordings, {"strong_tsv": weak}, "keys path cannot match them"),
        (d, recordings, {"weak_csv": listed}, "none of its 1 paths .*elsewhere/x.wav"),
        (d, recordings, {"clips_per_shard": 0}, "at least 1"),
        (d, recordings, {"clips_per_shard": 10_001}, "at most 10000: readers refuse"),
        (d, recordings, {"codec": "mp3"}, "needs one of flac, pcm16, fast"),
        (d, recordings, {"audio_spec": AudioSpec(sample_rate=700_000)}, "FLAC cannot hold mono-700000hz"),
        (d, recordings, {"split": "train"}, "split is 'train'"),
        (d, tmp_path / "empty", {}, "holds no recordings"),
        (d, tmp_path / "absent", {}, "is not a folder"),
        (Path("d"), recordings, {}, "absolute"),
        (d, Path("empty"), {}, "absolute"),
        (tmp_path / "a_file" / "d", recordings, {}, "cannot be written"),
    ]
    for dataset, folder, options, message in cases:
        with pytest.raises(UsageError, match=message):
            pack(dataset, folder, **options)
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "numcodecs", None)
        absent.setattr(_audio_fast, "_blosc", _audio_fast._blosc.__wrapped__)
        with pytest.raises(UsageError, match="pip install"):
            pack(d, recordings, codec="fast")
    assert not d.exists()
    pack(d, recordings)
    with pytest.raises(UsageError, match="keyed by path"):
        pack(d, recordings, keys="audioset", weak_csv=_one_present(tmp_path, recordings))


def test_readers_take_the_sidecar_of_the_biggest_shard() -> None:
    """With keys as long as they may be, and every clip stored or every clip rejected at length."""
    clips = MAX_CLIPS_PER_SHARD
    key = tuple(f"{number:0{MAX_KEY_LENGTH}}" for number in range(clips))
    about = {
        "path": Path("000000.json"), "shard": 0, "spec": AudioSpec(clip_ms=3_600_000), "codec": "pcm16",
        "tar_bytes": 2**40, "tar_sha256": "f" * 64, "provenance": {}, "software": {},
    }  # fmt: skip
    hexes = ("f" * 32,) * clips
    many = (2**40,) * clips
    stored = AudioClips(
        key=key, offset=many, length=many, crc32c=many, identity=hexes, samples=many,
        acoustic=("f" * 2 * ACOUSTIC_BYTES,) * clips, origin=("o" * 20,) * clips, cut_samples=many,
        clipped_samples=many, flags=(("cut", "clipped", "resampled"),) * clips,
    )  # fmt: skip
    rejected = Refusals(key=key, reason=("unreadable",) * clips, detail=("d" * 500,) * clips)
    none = {kind: kind(**{field.name: () for field in fields(kind)}) for kind in (AudioClips, Refusals)}
    for columns in ({"clips": stored, "rejected": none[Refusals]}, {"clips": none[AudioClips], "rejected": rejected}):
        size = len(sidecar_bytes(AudioSidecar(**about, **columns)))
        assert MAX_SIDECAR_BYTES / 4 < size < MAX_SIDECAR_BYTES / 1.5


def test_command(tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pack", "--dataset", str(tmp_path / "d"), "--split", "weak", "--folder", str(recordings)]
    command += ["--keys", "path", "--executor", "local"]
    assert main([*command, "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address is for --executor ray" in capsys.readouterr().err
    assert main(command) == 0
    assert "which and why: " in capsys.readouterr().out


def _one_present(tmp_path: Path, recordings: Path) -> Path:
    """A segment list that has a recording, so that only the key mode is wrong."""
    tone(recordings / "Yabcdefghij0.wav", 1.0)
    return segments(tmp_path / "present.csv", 'abcdefghij0, 0.000, 1.000, "/m/09x0r"')


def test_colliding_keys_name_both_recordings(tmp_path: Path) -> None:
    tone(tmp_path / "audio" / "Yabcdefghij0.wav", 1.0)
    tone(tmp_path / "audio" / "x" / "abcdefghij0.flac", 1.0)
    weak = segments(tmp_path / "weak.csv", 'abcdefghij0, 0.000, 1.000, "/m/09x0r"')
    with pytest.raises(MetadataError, match=r"Yabcdefghij0\.wav and x/abcdefghij0\.flac both are clip abcdefghij0_0"):
        pack(tmp_path / "d", tmp_path / "audio", keys="audioset", weak_csv=weak)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    tone(folder / "x.wav", 1.0)
    os.rename(os.fsencode(folder / "x.wav"), os.fsencode(folder) + b"/\xff \xfe.wav")
    assert pack(tmp_path / "d", folder).stored == 1
    assert sidecars(tmp_path / "d")[0].clips.key == ("%FF%20%FE%2Ewav_0",)


def test_a_second_spec(tmp_path: Path) -> None:
    """Four-channel audio at another rate has its own folder beside the mono one of the same clips."""
    rng = np.random.default_rng([7, 2])
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "foa.wav", rng.normal(0, 0.1, (24_000, 4)).clip(-1, 1), 24_000)
    spec = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
    pack(tmp_path / "d", tmp_path / "audio")
    assert pack(tmp_path / "d", tmp_path / "audio", audio_spec=spec).stored == 1
    assert Dataset(tmp_path / "d").audio_specs("weak") == (spec.name, SPEC)
    sidecar = Dataset(tmp_path / "d").audio_shards("weak", spec.name)[0]
    with AudioReader(sidecar) as reader:
        np.testing.assert_array_equal(
            reader.read(0), soundfile.read(tmp_path / "audio" / "foa.wav", dtype="int16")[0].T
        )


def test_real_labelled_recordings(tmp_path: Path, shared: Path) -> None:
    folder, listed = shared / "recordings", shared / "recordings" / "labelled.csv"
    report = pack(tmp_path / "d", folder, weak_csv=listed, long="split", clips_per_shard=50)
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = sum(max(1, -(-int(float(row["duration_s"]) * 1000 - 39) // 10_000)) for row in rows)
    assert report.exit_code == 0
    assert report.rejected == {}
    assert (report.clips, report.stored) == (wanted, wanted)
    assert accounted(tmp_path / "d") == {"stored": wanted}
    hard = read_hard(Dataset(tmp_path / "d").hard_path("weak")).to_pylist()
    mids = {path_key(row["path"]).removesuffix("_0"): row["mid"] for row in rows}
    assert {row["key"]: row["weak_mids"] for row in hard} == {
        row["key"]: [mids[row["key"].rpartition("_")[0]]] for row in hard
    }


def test_real_bad_and_odd_recordings(tmp_path: Path, shared: Path) -> None:
    def run(name: str) -> StageReport:
        return pack(tmp_path / name, shared / "recordings" / name)

    broken, tiny, formats = run("broken"), run("tiny"), run("formats")
    assert (broken.stored, broken.clips, len(broken.rejections)) == (0, 13, 13)
    assert all(entry.detail for entry in broken.rejections)
    assert (tiny.stored, tiny.rejected) == (0, {"too_short": 9})
    assert (formats.rejected, formats.stored) == ({}, 98)
    assert [report.exit_code for report in (broken, tiny, formats)] == [1, 1, 0], "of the first two nothing is stored"


def test_the_stage_is_small(tmp_path: Path, recordings: Path) -> None:
    """What travels to a worker does not grow with the number of clips."""
    import pickle

    stage: Stage = pack_stage(dataset=tmp_path / "d", split="weak", folder=recordings, keys="path")
    assert len(pickle.dumps((stage.open_worker, stage.config))) < 2_000


def test_a_repeated_call_that_forgot_its_labels_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(16_000), 16_000)
    (folder / "weak.csv").write_text("path,mid\na.wav,/m/09x0r\n")
    call = {"dataset": tmp_path / "d", "split": "weak", "folder": folder, "keys": "path"}
    run_stage(pack_stage(**call, weak_csv=folder / "weak.csv"), executor="local", progress=False)
    with pytest.raises(UsageError, match="give the --weak-csv again"):
        pack_stage(**call)


def test_verify_finds_a_manifest_that_is_not_what_was_packed(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(16_000), 16_000)
    stage = pack_stage(dataset=tmp_path / "d", split="weak", folder=folder, keys="path")
    run_stage(stage, executor="local", progress=False)
    assert verify(tmp_path / "d") == ()
    manifest = stage.output / "manifest.parquet"
    (row,) = read_manifest(manifest)
    write_manifest(manifest, [row._replace(bytes=row.bytes + 1)])
    assert [problem.kind for problem in verify(tmp_path / "d", quick=True)] == ["manifest"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_a_pack_never_leaves_a_wrong_clip(tmp_path: Path, number: int) -> None:
    """A handler that raised would be lost in libsndfile's callbacks: the run would go on, a clip cut off in memory."""
    rng = np.random.default_rng([7, 5])
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in range(120):
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, 16_000 * 5).clip(-1, 1), 16_000)
    dataset = tmp_path / "d"
    command = [sys.executable, "-m", "sed_distill", "pack", "--dataset", str(dataset), "--split", "weak"]
    command += ["--folder", str(folder), "--keys", "path", "--clips-per-shard", "60", "--executor", "local"]
    output = Dataset(dataset).audio_folder("weak", SPEC)
    for _ in range(3):
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            # A shell ignores SIGINT for what runs in the background, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            stdout=subprocess.PIPE,
            text=True,
        )
        while not list(output.glob(".partial-*.tar")):
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"stopped: {signal.Signals(number).name}" in said
        assert not [problem for problem in verify(dataset) if problem.kind != "incomplete"]
        for sidecar in output.glob("[0-9]*.json"):
            sidecar.unlink()
    stage = pack_stage(dataset=dataset, split="weak", folder=folder, keys="path", clips_per_shard=60)
    assert run_stage(stage, executor="local", progress=False).stored == 120
    assert verify(dataset) == ()


def test_a_clip_is_stored_in_one_split(tmp_path: Path) -> None:
    """Weak leaves out what strong has, whichever way it is called again; strong does not take clips from weak."""
    ids = [f"{number:011d}" for number in range(4)]
    folder = tmp_path / "wavs"
    folder.mkdir()
    for name in ids:
        tone(folder / f"Y{name}.wav", 10)
    weak = segments(tmp_path / "weak.csv", *(f'{name}, 0.000, 10.000, "/m/09x0r"' for name in ids))
    strong = tmp_path / "strong.tsv"
    events = "".join(f"{name}_0\t0.5\t1.5\t/m/09x0r\n" for name in ids[:2])
    strong.write_text(f"segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n{events}")
    options: dict[str, object] = {"keys": "audioset"}
    pack(tmp_path / "data", folder, split="strong", strong_tsv=strong, **options)
    for _ in range(2):
        report = pack(tmp_path / "data", folder, weak_csv=weak, **options)
        assert (report.stored, report.notes["in_other_splits"]) == (2, 2)
    assert verify(tmp_path / "data") == ()
    assert read_hard(tmp_path / "data" / "weak" / "hard.parquet")["key"].to_pylist() == [
        f"{name}_0" for name in ids[2:]
    ]
    pack(tmp_path / "other", folder, weak_csv=weak, **options)
    before = tree(tmp_path / "other")
    with pytest.raises(
        UsageError, match=f"split weak has 2 of the clips of strong \\({ids[0]}_0 first\\).* pack strong"
    ):
        pack(tmp_path / "other", folder, split="strong", strong_tsv=strong, **options)
    assert tree(tmp_path / "other") == before


def test_recordings_of_one_name_in_two_splits_are_refused(tmp_path: Path) -> None:
    for split in ("weak", "strong"):
        (tmp_path / split).mkdir()
        tone(tmp_path / split / "a.wav", 1)
    pack(tmp_path / "data", tmp_path / "strong", split="strong")
    with pytest.raises(UsageError, match=r"split strong has 1 of the clips of weak .* pack the folder above"):
        pack(tmp_path / "data", tmp_path / "weak")


@pytest.mark.parametrize(
    "arguments",
    [
        ["pack", "--dataset", "s3://bucket/data", "--split", "weak", "--folder", "x", "--keys", "path"],
        ["transcode", "--dataset", "x", "--out", "gs://bucket/data", "--codec", "fast"],
        ["label", "--dataset", "s3://bucket/data", "--split", "weak", "--teacher", "demo", "--labels", "a"],
    ],
)
def test_nothing_is_written_to_an_address(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "is an address, and what lies in a store is only read; give a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
