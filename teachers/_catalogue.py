"""The released checkpoints that the families of this package load: where they are, whose they are, what they learned
from. Needs no torch: a list is printed at once."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

_PRETRAINED_SED = "https://github.com/fschmid56/PretrainedSED"
_STRONG_FILES = f"{_PRETRAINED_SED}/releases/download/v0.0.1/"
_STRONG_PAPER = "Schmid et al., ICASSP 2025, arXiv:2409.09546"
_STRONG_LICENCE = "MIT (its repository; checkpoints not named)"
_STRONG_TRAINING = (
    "AudioSet Strong train, distilled from the mean logits of 15 models; chosen by its results on AudioSet eval"
)
_ALL_CONTEXTS_MS = (10_000, 5_000, 4_000, 2_000)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Checkpoints of one family in one layout.

    family: as `--teacher` spells it; layout: as provenances do. parameters: of the model with its heads.
    checkpoints: name -> address, for `--teacher FAMILY=NAME`; empty where a file has to be fetched by hand from `page`.
    licence: as stated for the file; made_from: weights of others that the training began with, and theirs.
    trained_on: in order. psds1: of the paper, on AudioSet eval, in percent; mean of three runs.
    """

    family: str
    layout: str
    model: str
    parameters: int
    classes: int
    contexts_ms: tuple[int, ...]
    page: str
    paper: str | None
    licence: str
    trained_on: tuple[str, ...]
    checkpoints: Mapping[str, str]
    made_from: str | None = None
    made_from_licence: str | None = None
    psds1: float | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "checkpoints": dict(self.checkpoints)}


def _strong(
    family: str, file: str, model: str, parameters: int, psds1: float, *, contexts_ms: tuple[int, ...],
    made_from: str, made_from_licence: str, before: tuple[str, ...],
) -> Release:  # fmt: skip
    """A checkpoint of the final step of PretrainedSED."""
    return Release(
        family=family, layout="pretrained_sed", model=model, parameters=parameters, classes=447,
        contexts_ms=contexts_ms, page=_PRETRAINED_SED, paper=_STRONG_PAPER, licence=_STRONG_LICENCE,
        trained_on=(*before, _STRONG_TRAINING), made_from=made_from, made_from_licence=made_from_licence,
        checkpoints=MappingProxyType({"strong_1": f"{_STRONG_FILES}{file}_strong_1.pt"}), psds1=psds1,
    )  # fmt: skip


RELEASES: tuple[Release, ...] = (
    _strong(
        "beats", "BEATs", "BEATs", 90_999_278, 46.5, contexts_ms=_ALL_CONTEXTS_MS,
        made_from="BEATs_iter3+ (AS2M), microsoft/unilm", made_from_licence="MIT (its repository; weights not named)",
        before=("AudioSet Weak, without labels but with tokens of fine-tuned models",),
    ),
    _strong(
        "atst", "ATST-F", "ATST-Frame", 86_105_982, 45.8, contexts_ms=_ALL_CONTEXTS_MS,
        made_from="ATST-Frame, Audio-WestlakeU/audiossl", made_from_licence="CC BY 4.0 (checkpoints)",
        before=("AudioSet Weak, without labels", "AudioSet Weak"),
    ),
    _strong(
        "fpasst", "fpasst", "fPaSST", 89_109_118, 45.4, contexts_ms=_ALL_CONTEXTS_MS,
        made_from="DeiT-B distilled 384, facebookresearch/deit",
        made_from_licence="Apache-2.0 (its repository; weights not named)",
        before=("ImageNet", "AudioSet Weak"),
    ),
    _strong(
        "m2d", "M2D", "M2D", 88_926_846, 46.3, contexts_ms=_ALL_CONTEXTS_MS,
        made_from="M2D-CLAP 240128 AS-FT, nttcslab/m2d",
        made_from_licence="NTT evaluation licence: internal, non-commercial, no redistribution or modification",
        before=("AudioSet Weak, without labels and with captions", "AudioSet Weak"),
    ),
    _strong(
        "asit", "ASIT", "ASiT", 86_169_726, 46.2, contexts_ms=(10_000,),
        made_from="ASiT, Sara-Ahmed/ASiT", made_from_licence="not stated",
        before=("AudioSet Weak, without labels", "AudioSet Weak"),
    ),
    Release(
        family="beats", layout="unilm", model="BEATs, fine-tuned on clips", parameters=90_717_055, classes=527,
        contexts_ms=_ALL_CONTEXTS_MS, page="https://github.com/microsoft/unilm/tree/master/beats",
        paper="Chen et al., ICML 2023, arXiv:2212.09058", licence="MIT (its repository; checkpoints not named)",
        trained_on=("AudioSet Weak, without labels", "AudioSet Weak"), checkpoints=MappingProxyType({}),
    ),
    Release(
        family="demo", layout="unilm", model="small BEATs of this project", parameters=1_087_924, classes=24,
        contexts_ms=_ALL_CONTEXTS_MS, page="teachers/demo/README.md", paper=None, licence="MIT (this project)",
        trained_on=("20,000 generated soundscapes",), checkpoints=MappingProxyType({}),
    ),
)  # fmt: skip
"""What the pages and licence files of the repositories state; sizes and contexts are those of the code here."""

DEMO_CHECKPOINT = Path(__file__).resolve().parent / "demo" / "demo_beats.pt"

# Splits whose labels the teachers of releases and of published labels were trained on. dev is cut out of strong train.
_SEEN = {"weak": True, "strong": True, "dev": True, "eval": False}


def released(family: str) -> dict[str, str]:
    """Name -> address of the checkpoints of a family that can be fetched."""
    return {name: url for release in RELEASES if release.family == family for name, url in release.checkpoints.items()}


def in_sample(provenance: Mapping[str, Any], split: str) -> bool | None:
    """Whether a teacher saw labels of AudioSet's `split` in training, clip-level ones included; None: not known.

    `provenance`: of a teacher, of an ensemble or of a label set. A file of a released layout is taken for the released
    one; an ensemble has seen what any of its members has. All releases saw `weak`, `strong` and so `dev`. None was
    trained on `eval`, but PretrainedSED's checkpoints were chosen by their results there. The demo teacher saw none of
    the demo's clips.
    """
    found = [_one_in_sample(teacher, split) for teacher in _leaves(provenance)]
    if any(found):
        return True
    return None if None in found else False


def _one_in_sample(teacher: Mapping[str, Any], split: str) -> bool | None:
    if teacher.get("checkpoint_sha256") == _demo_sha256():
        return False
    layouts = [(release.family, release.layout) for release in RELEASES]
    known = (teacher.get("family"), teacher.get("layout")) in layouts or teacher.get("stage") == "import"
    return _SEEN.get(split) if known else None


def _leaves(provenance: object) -> Iterator[Mapping[str, Any]]:
    """What is behind a label set or an ensemble; itself, if it names nothing. Provenance of others is free JSON."""
    about = provenance if isinstance(provenance, Mapping) else {}
    members = about.get("members")
    inner = members if isinstance(members, list) else [about["teacher"]] if "teacher" in about else []
    if not inner:
        yield about
    for member in inner:
        yield from _leaves(member)


@cache
def _demo_sha256() -> str:
    return hashlib.sha256(DEMO_CHECKPOINT.read_bytes()).hexdigest() if DEMO_CHECKPOINT.is_file() else ""
