"""What `--teacher` may say, and what it is recorded as."""

import pickle
import sys
from pathlib import Path

import pytest
import torch

from pipeline import TeacherError, UsageError
from teachers import TeacherChoice, _sources, load_teacher
from teachers._catalogue import released
from teachers._sources import checkpoint_file
from tests.teachers.labelling_examples import tiny_beats

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "family", "checkpoint"),
    [
        ("demo", "demo", None),
        ("beats=/models/a=b.pt", "beats", Path("/models/a=b.pt")),
        ("beats=/models/a#b.pt", "beats", Path("/models/a#b.pt")),
        ("beats=strong_1", "beats", "strong_1"),
        (f"beats=strong_1#sha256={HEX}", "beats", f"strong_1#sha256={HEX}"),
        ("beats=https://host/a.pt", "beats", "https://host/a.pt"),
        (f"atst=https://host:8080/a.pt?x=1#sha256={HEX}", "atst", f"https://host:8080/a.pt?x=1#sha256={HEX}"),
        ("own_teacher:load", "own_teacher:load", None),
        ("package.own:Own.load=/own.pt", "package.own:Own.load", Path("/own.pt")),
    ],
)
def test_is_read_and_written_alike(text: str, family: str, checkpoint: Path | str | None) -> None:
    choice = TeacherChoice.parse(text)
    assert choice == TeacherChoice(family, checkpoint)
    assert choice.text == text
    assert pickle.loads(pickle.dumps(choice)) == choice


def test_paths_become_absolute_and_names_are_of_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TeacherChoice.parse("beats=some/beats.pt").checkpoint == tmp_path / "some" / "beats.pt"
    assert TeacherChoice.parse("beats=./strong_1").checkpoint == tmp_path / "strong_1"
    assert TeacherChoice.parse("own:load=strong_1").checkpoint == tmp_path / "strong_1"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TeacherChoice.parse("beats=~/a.pt").checkpoint == tmp_path / "a.pt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs FAMILY=CHECKPOINT"),
        ("beats", "needs FAMILY=CHECKPOINT such as .* or beats=strong_1"),
        ("beats=", "needs FAMILY=CHECKPOINT"),
        ("=/a.pt", "needs FAMILY=CHECKPOINT"),
        ("https://host/a.pt", "needs FAMILY=CHECKPOINT"),
        ("https://host/a.pt?x=1", "needs FAMILY=CHECKPOINT"),
        ("own:load it", "needs FAMILY=CHECKPOINT"),
        ("beats=s3://bucket/a.pt", "is fetched from https:// or http://"),
        ("beats=file:///a.pt", "is fetched from https:// or http://"),
        ("beats=https:///a.pt", "is fetched from https:// or http://"),
        ("beats=https://host:port/a.pt", "is fetched from https:// or http://"),
        ("beats=https://host/a b.pt", "is fetched from https:// or http://"),
        ("beats=https://höst/a.pt", "is fetched from https:// or http://"),
        ("beats=https://github..com/a.pt", "is fetched from https:// or http://"),
        (f"beats=https://{'a' * 64}.com/a.pt", "is fetched from https:// or http://"),
        ("beats=https://me:secret@host/a.pt", r"^https://host/a\.pt: .*must not hold a password"),
        ("beats=https://me:secret@host:port/a.pt", r"^https://host:port/a\.pt: .*must not hold a password"),
        ("beats=ftp://me:secret@host/a.pt", r"^ftp://host/a\.pt: .*must not hold a password"),
        ("https://me:secret@host/a.pt", r"--teacher is 'https://host/a\.pt', needs FAMILY=CHECKPOINT"),
        ("demo=/a.pt", "needs FAMILY=CHECKPOINT"),
        ("beats=https://host/a.pt#sha256=12", "ends in #sha256=12, needs #sha256= and 64"),
        (f"beats=https://host/a.pt#{HEX}", "needs #sha256= and 64"),
        ("beats=strong_1#md5=1", "needs #sha256= and 64"),
        ("beats=/a.pt#SHA256=00", "#sha256= is for what is fetched; give /a.pt"),
        (f"beats=a.pt#sha256={HEX}", "#sha256= is for what is fetched; give a.pt"),
        ("beats=~nobody_of_that_name/a.pt", "no such home folder"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TeacherChoice.parse(text)
    assert "secret" not in str(caught.value)


def test_a_released_name_is_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def cached(url: str, *, sha256: str | None, archive: bool) -> Path:
        asked.append((url, sha256, archive))
        return Path("/cached.pt")

    monkeypatch.setattr(_sources, "cached_checkpoint", cached)
    for source in ("strong_1", f"strong_1#sha256={HEX}", f"strong_1#SHA256={HEX.upper()}"):
        assert checkpoint_file("m2d", source, archive=True) == Path("/cached.pt")
    address = released("m2d")["strong_1"]
    assert asked == [(address, None, True), (address, HEX, True), (address, HEX, True)]
    assert checkpoint_file("m2d", Path("/here.pt"), archive=True) == Path("/here.pt")
    assert len(asked) == 3


def test_a_family_without_its_checkpoint_and_an_unknown_one() -> None:
    with pytest.raises(TeacherError, match="teacher beats needs a checkpoint; give beats=CHECKPOINT"):
        load_teacher("beats")
    for name in ("strong1", "strong_9"):
        with pytest.raises(TeacherError, match=rf"/{name}: cannot be read .* released m2d by its name: m2d=strong_1$"):
            TeacherChoice.parse(f"m2d={name}").open("cpu")
    with pytest.raises(TeacherError, match=r"strong_1\.pt: cannot be read .* the name of a released one"):
        TeacherChoice.parse("beats=strong_1.pt").open("cpu")


@pytest.mark.parametrize(
    ("family", "near"),
    [("BEATs", "beats"), ("beets", "beats"), ("atst-f", "atst"), ("passt", "fpasst"), ("M2D", "m2d"), ("panns", None)],
)
def test_a_family_that_there_is_not(family: str, near: str | None) -> None:
    meant = "" if near is None else rf"did you mean {near}\? "
    with pytest.raises(UsageError, match=f"^--teacher: no teacher family '{family}'; {meant}known: beats, atst"):
        TeacherChoice.parse(f"{family}=/a.pt")


def test_several_in_one_are_taken_apart_by_the_user(tmp_path: Path) -> None:
    for other in ("atst=b.pt", "own.module:load=b.pt"):
        with pytest.raises(UsageError, match="give --teacher once for each"):
            TeacherChoice.parse(f"beats={tmp_path}/a.pt,{other}").open("cpu")
    path = tiny_beats(tmp_path / "a,b=c.pt")
    assert TeacherChoice.parse(f"beats={path}").open("cpu").provenance["family"] == "beats"


OWN = """
import torch
from pipeline import AudioSpec, Vocabulary
from teachers import Teacher

class Own(Teacher):
    def __init__(self, path, device, **about):
        self.path = path
        classes = Vocabulary(("/m/1",), ("One",))
        super().__init__(audio_spec=AudioSpec(), vocabulary=classes, provenance=about, device=device)

    def _frame_logits(self, waveforms, frames):
        return waveforms.new_zeros(len(waveforms), 1, frames)

def load(path, device):
    return Own(path, device)

def named(path, device):
    return Own(path, device, family="mine", checkpoint_sha256="of my own")

def odd(path, device):
    return Own(path, device, weights=torch.zeros(1))

class Made:
    of_a_class = staticmethod(load)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_module_of_test_choice.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_module_of_test_choice"
    sys.modules.pop("own_module_of_test_choice", None)


def test_a_teacher_of_the_users_own_with_and_without_a_file(own: str, tmp_path: Path) -> None:
    files = [tiny_beats(tmp_path / f"{seed}.pt", seed=seed) for seed in (0, 1)]
    without = TeacherChoice.parse(f"{own}:load").open("cpu")
    assert without.path is None
    assert without.provenance["family"] == f"{own}:load"
    assert "checkpoint_sha256" not in without.provenance
    first, second = (TeacherChoice.parse(f"{own}:load={file}").open("cpu") for file in files)
    assert (first.path, second.path) == tuple(files)
    assert first.provenance["checkpoint_sha256"] != second.provenance["checkpoint_sha256"]
    named = load_teacher(f"{own}:named", checkpoint=files[0], device=torch.device("cpu"))
    assert (named.provenance["family"], named.provenance["checkpoint_sha256"]) == ("mine", "of my own")
    with pytest.raises(TeacherError, match="its provenance is no plain JSON"):
        load_teacher(f"{own}:odd")
    assert TeacherChoice.parse(f"{own}:Made.of_a_class").open("cpu").path is None
    for absent in (f"{own}:absent", f"{own}:Made.absent", "no_such_module:load", ".own:load"):
        with pytest.raises(TeacherError, match=r"cannot be imported .* PYTHONPATH, on every node"):
            load_teacher(absent)
    with pytest.raises(TeacherError, match="torch is a module, not a function"):
        load_teacher(f"{own}:torch")


@pytest.mark.parametrize(("family", "archive"), [("own", False), ("beats", True)])
def test_only_a_released_family_needs_a_pytorch_checkpoint(
    own: str, family: str, archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(url: str, *, sha256: str | None, archive: bool) -> Path:
        asked.append(archive)
        return tiny_beats(tmp_path / "tiny.pt")

    monkeypatch.setattr(_sources, "cached_checkpoint", cached)
    TeacherChoice.parse(f"{own}:load=https://host/a" if family == "own" else "beats=https://host/a").open("cpu")
    assert asked == [archive]


def test_what_is_no_file_has_to_be_told_apart_by_its_teacher(own: str, tmp_path: Path) -> None:
    """Labels of two folders would else pass for one label set."""
    assert load_teacher(f"{own}:named", checkpoint=tmp_path).provenance["checkpoint_sha256"] == "of my own"
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TeacherError, match=rf"{path} is no file.* state checkpoint_sha256"):
            load_teacher(f"{own}:load", checkpoint=path)
