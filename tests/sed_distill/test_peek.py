"""`sed-distill peek` against a brute-force reading of the same files."""

import base64
import errno
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from pipeline import AudioSpec, Event, TargetSpec, Vocabulary, class_name, hard_table, write_hard
from sed_distill.cli import main
from shards import AudioShardWriter, Dataset, LabelShardWriter
from tests.shards.small_dataset import MIDS, SPEC, TEACHER, VOCABULARY, BruteForce, Truth, write_split

HEAD = re.compile(r" *(\d+) (\w+) +([\d.]+) +(\d+) +(-|\d+)  (\S+)")
# The label sets of the split in order of name, `clip` and `frames`: the first to have a class names it.
NAMES = {**dict(zip(MIDS, VOCABULARY.names, strict=True)), "/m/0k4j": "elsewhere"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("peeked")
    dataset = Dataset.create(root, keys="audioset")
    write_split(dataset, "weak", 23, seed=11, fail=(4, 11))
    write_split(dataset, "strong", 14, seed=11, labels=("frames",))
    return root


def brute_force(root: Path, split: str) -> BruteForce:
    """What `write_split` put there, from the files alone."""
    rows = pq.read_table(Dataset(root).hard_path(split)).to_pylist()
    truth = Truth(
        [row["key"] for row in rows],
        {row["key"]: row["weak_mids"] for row in rows if row["weak_mids"] is not None},
        {row["key"]: [Event(**event) for event in row["events"]] for row in rows if row["strong_annotated"]},
    )
    return BruteForce(root, split, truth, audioset=True)


def peek(root: Path, out: Path, *options: object, code: int = 0) -> None:
    assert main(["peek", str(root), "--out", str(out), *map(str, options)]) == code


class Page(HTMLParser):
    """Addresses of a page, and its pictures by what they are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[tuple[str, str]] = []
        self.pictures: dict[str, list[bytes]] = {}
        self.sounds: list[bytes] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("src", "href", "action", "srcset", "data"):
            if name in given:
                self.sources.append((tag, str(given[name])))
        content = base64.b64decode(str(given.get("src", ",")).split(",", 1)[1])
        if tag == "img":
            self.pictures.setdefault(str(given["alt"]), []).append(content)
        if tag == "audio":
            self.sounds.append(content)


def test_the_table_says_what_the_files_hold(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peek(root, tmp_path / "peek.html", "--clips", 12, "--seed", 3)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert said.err.splitlines()[-1].endswith("peek.html: 12 clips")
    brute = {split: brute_force(root, split) for split in ("weak", "strong")}
    heads = [number for number, line in enumerate(lines) if HEAD.fullmatch(line)]
    assert [HEAD.fullmatch(lines[number])[2] for number in heads] == ["weak"] * 6 + ["strong"] * 6  # type: ignore[index]
    kinds = set()
    for place, (first, last) in enumerate(itertools.pairwise([*heads, len(lines)])):
        number, split, seconds, frames, events, key = HEAD.fullmatch(lines[first]).groups()  # type: ignore[union-attr]
        told = _told(lines[first + 1 : last])
        truth, pcm, row = brute[split].truth, brute[split].pcm[key], brute[split].row(key)
        assert (int(number), float(seconds)) == (place, round(len(pcm) / 16_000, 3))
        assert int(frames) == row["valid_frames"]
        if key in truth.events:
            every = {mid: [event for event in truth.events[key] if event.mid == mid] for mid in {*MIDS, "/m/0k4j"}}
            assert int(events) == sum(_runs(of, int(frames)) for of in every.values())
        else:
            assert events == "-"
        weak = truth.weak.get(key)
        assert told["people"] == ("not labelled" if weak is None else _listed(sorted(map(NAMES.__getitem__, weak))))
        for name, labels in (("clip", VOCABULARY), ("frames", TEACHER)):
            values = brute[split].labels.get(name, {}).get(key)
            if values is None:
                assert told[name] == "no label"
                kinds.add((split, name))
                continue
            if name == "frames":
                values = (1 / (1 + np.exp(-values[:, : int(frames)].astype(np.float64)))).max(axis=1)
            top = sorted(zip(values, labels.mids, strict=True), reverse=True)[:4]
            shown = dict(re.findall(r"([\w ]+?) ([01]\.\d\d)(?:; |$)", told[name]))
            assert list(shown) == [NAMES[mid] for _, mid in top]
            assert [float(p) for p in shown.values()] == pytest.approx([p for p, _ in top], abs=0.0051)
    assert ("strong", "clip") in kinds


def test_the_page_shows_and_plays_the_clips_without_a_network(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "peek.html"
    peek(root, out, "--clips", 8)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.sources} == {"img", "audio"}
    assert all(address.startswith("data:") for _, address in page.sources)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    keys = re.findall(r"<code>(\S+_0)</code>", text)
    assert len(keys) == len(page.sounds) == 8
    for key, sound in zip(keys, page.sounds, strict=True):
        brute = brute_force(root, key.split("-")[0])
        assert np.array_equal(soundfile.read(io.BytesIO(sound), dtype="int16")[0], brute.pcm[key])
        assert f"mel spectrogram of {key}" in page.pictures
    for name, strips in page.pictures.items():
        if name.startswith("frames: "):
            assert {Image.open(io.BytesIO(strip)).size for strip in strips} == {(1000, 1)}


def test_a_strip_is_the_probability_along_the_clip(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "peek.html"
    peek(root, out, "--clips", 1, "--split", "strong", "--labels", "frames")
    text = out.read_text(encoding="utf-8")
    (key,) = re.findall(r"<code>(\S+_0)</code>", text)
    brute = brute_force(root, "strong")
    logits = brute.labels["frames"][key].astype(np.float64)
    frames = int(brute.row(key)["valid_frames"])
    probabilities = np.where(np.arange(250) < frames, 1 / (1 + np.exp(-logits)), 0)
    strips = {name.removeprefix("frames: "): data for name, data in Page(text).pictures.items() if "frames: " in name}
    assert strips
    for name, (strip,) in strips.items():
        alpha = np.asarray(Image.open(io.BytesIO(strip)))[0, :, 3]
        wanted = np.repeat(probabilities[TEACHER.names.index(name)], 4) * 255
        assert np.abs(alpha - wanted).max() <= 0.51


def test_a_png_for_where_no_browser_is(root: Path, tmp_path: Path) -> None:
    for clips in (1, 3):
        peek(root, tmp_path / f"{clips}.png", "--clips", clips, "--split", "weak")
    one, three = (Image.open(tmp_path / f"{clips}.png") for clips in (1, 3))
    assert one.width == three.width >= 1000
    assert three.height > 2 * one.height


def test_the_same_seed_gives_the_same_picture(root: Path, tmp_path: Path) -> None:
    contents = []
    for number, seed in enumerate((0, 0, 1)):
        peek(root, tmp_path / f"{number}.html", "--clips", 2, "--seed", seed)
        contents.append((tmp_path / f"{number}.html").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_small_split_is_shown_whole(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peek(root, tmp_path / "all.png", "--clips", 29)
    heads = [HEAD.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert [head[2] for head in heads if head] == ["weak"] * 15 + ["strong"] * 14


def test_other_corpora_without_label_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path, keys="path")
    key = "%2F".join(["a%20long%20folder"] * 8) + "_0"
    with AudioShardWriter(dataset.audio_folder("weak", SPEC.name), 0, spec=SPEC, provenance={"by": "test"}) as writer:
        writer.add(key, np.ones(1, dtype=np.int16), origin="pcm")
        writer.commit()
    write_hard(dataset.hard_path("weak"), hard_table([key], weak={key: ["/m/09x0r", "mine/knock"]}))
    for name in ("peek.html", "peek.png"):
        peek(tmp_path, tmp_path / name)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[1].endswith("..")
        assert _told(lines[2:]) == {"people": f"{class_name('/m/09x0r')}; mine/knock"}
    path = "/".join(["a long folder"] * 8)
    assert f'<code title="{key}">{path}</code>' in (tmp_path / "peek.html").read_text()


def test_chunks_of_4_s_are_drawn_where_they_lie(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path, keys="path")
    target = TargetSpec(
        axes=("class", "time"), kind="probability", vocabulary=Vocabulary(("x",), ("X",)), hop_ms=4000, frames=3
    )
    folder = dataset.audio_folder("weak", AudioSpec().name)
    with AudioShardWriter(folder, 0, spec=AudioSpec(), provenance={"by": "test"}) as writer:
        writer.add("clip_0", np.ones(160_000, dtype=np.int16), origin="pcm")
        audio = writer.commit()
    with LabelShardWriter(
        dataset.labels_folder("weak", "chunks"), audio, target=target, provenance={"by": "test"}, codec="npy"
    ) as labels:
        labels.add("clip_0", np.array([[0.25, 1.0, 0.5]], dtype=np.float32))
        labels.commit()
    write_hard(dataset.hard_path("weak"), hard_table(["clip_0"]))
    peek(tmp_path, tmp_path / "peek.html")
    ((strip,),) = (
        strips for name, strips in Page((tmp_path / "peek.html").read_text()).pictures.items() if name == "chunks: X"
    )
    alpha = np.asarray(Image.open(io.BytesIO(strip)))[0, :, 3].tolist()
    assert alpha == [64] * 400 + [255] * 400 + [128] * 200


def test_sound_events_with_tracks_and_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    spec = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
    with AudioShardWriter(dataset.audio_folder("strong", spec.name), 0, spec=spec, provenance={}) as writer:
        for key in ("a_0", "b_0"):
            writer.add(key, np.full((4, 120_000), [[9], [1], [2], [3]], np.int16), origin="pcm")
        audio = writer.commit()
    own = {"context_ms": 5_000, "hop_ms": 100, "frames": 50, "tracks": 3}
    sed = TargetSpec(
        axes=("time", "track", "class"), kind="probability", vocabulary=Vocabulary(("x", "y"), ("X", "Y")), **own
    )  # type: ignore[arg-type]
    heard = np.zeros(sed.shape, np.float32)
    heard[10:20, 1, 1] = 1
    heard[15:30, 2, 1] = 0.5
    for name, target in (("sed", sed), ("metres", TargetSpec(axes=("time", "track"), kind="metre", **own))):  # type: ignore[arg-type]
        folder = dataset.labels_folder("strong", name)
        with LabelShardWriter(folder, audio, target=target, provenance={}, codec="npy") as labels:
            for key in ("a_0", "b_0"):
                if (name, key) == ("metres", "b_0"):
                    labels.fail(key, "not_finite", "made to fail")
                else:
                    labels.add(key, heard if name == "sed" else np.ones(target.shape, np.float32))
            labels.commit()
    write_hard(dataset.hard_path("strong"), hard_table(["a_0", "b_0"]))
    peek(dataset.root, tmp_path / "peek.png")
    peek(dataset.root, tmp_path / "peek.html")
    lines = capsys.readouterr().out.splitlines()
    told = {
        HEAD.fullmatch(lines[first])[6]: _told(lines[first + 1 : first + 4])  # type: ignore[index]
        for first in (number for number, line in enumerate(lines) if HEAD.fullmatch(line))
    }
    assert told == {
        key: {"people": "not labelled", "sed": "Y 1.00; X 0.00", "metres": metres}
        for key, metres in (("a_0", "values of shape (50, 3)"), ("b_0", "no label"))
    }
    pictures = Page((tmp_path / "peek.html").read_text(encoding="utf-8")).pictures
    for strip in pictures["sed: Y"]:
        alpha = np.asarray(Image.open(io.BytesIO(strip)))[0, :, 3].tolist()
        assert alpha == [0] * 200 + [255] * 200 + [128] * 200 + [0] * 400


def test_a_damaged_clip_is_replaced_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path, keys="audioset")
    write_split(dataset, "weak", 6, seed=1, labels=())
    tar = dataset.audio_folder("weak", SPEC.name) / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    peek(tmp_path, tmp_path / "peek.html", "--clips", 3, "--seed", _seed_that_draws(tmp_path, capsys))
    said = capsys.readouterr()
    assert "replaced: weak: " in said.err
    assert "weak-000_0" not in said.out


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--labels", "beats"], "there is no label set beats; weak has clip, frames; strong has frames"),
        (["--clips", "0"], "needs 1 or more"),
        (["--audio", "mono-8000hz-1000ms"], "mono-8000hz-1000ms"),
    ],
)
def test_what_is_not_there_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], wanted: str
) -> None:
    peek(root, tmp_path / "peek.html", *options, code=2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert wanted in said.err
    assert list(tmp_path.iterdir()) == []


def test_refusals_before_anything_is_read(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path / "peek.pdf", tmp_path / "nowhere" / "peek.html", tmp_path):
        peek(root, out, code=2)
        assert "a .html or .png in a folder that is there" in capsys.readouterr().err
    peek(tmp_path, tmp_path / "peek.html", code=2)
    assert "is not a dataset" in capsys.readouterr().err
    Dataset.create(tmp_path / "none", keys="path")
    peek(tmp_path / "none", tmp_path / "peek.html", code=2)
    assert "has no split to train on" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    for out in (tmp_path / "peek.html", tmp_path / "peek.png"):
        peek(root, out, code=2)
        said = capsys.readouterr().err
        assert said == f"error: --out {out}: cannot be written (No space left on device); choose another one\n"


def _told(lines: list[str]) -> dict[str, str]:
    """Title -> text, folded lines together."""
    told: dict[str, str] = {}
    title = ""
    for line in lines:
        title = line[5:19].strip() or title
        told[title] = f"{told.get(title, '')} {line[20:].strip()}".strip()
    return told


def _listed(names: list[str]) -> str:
    return "; ".join(sorted(set(names), key=list(NAMES.values()).index)) or "no class"


def _runs(events: list[tuple[int, int, str]], frames: int) -> int:
    active = [any(onset < 40 * t + 40 and offset > 40 * t for onset, offset, _ in events) for t in range(frames)]
    return sum(now and not before for before, now in itertools.pairwise([False, *active]))


def _seed_that_draws(root: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The first seed whose batch of 3 has the damaged clip: without the damage it would be on the table."""
    for seed in range(50):
        peek(root, root / "try.png", "--clips", 3, "--seed", seed)
        if "replaced" in capsys.readouterr().err:
            return seed
    raise AssertionError("no seed of 50 draws the damaged clip")
