"""What every family of strong checkpoints promises, held by small models under the released names."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import AudioSpec, TeacherError
from teachers import Chunked, Ensemble, Windows
from teachers._checkpoints import Checkpoint
from teachers.families._strong import load_strong
from tests.teachers.conftest import parity_rules
from tests.teachers.tiny_families import (
    FULL,
    tiny_checkpoint,
    tiny_family,
    tiny_teacher,
    tiny_teacher_elsewhere,
    tiny_tensors,
)

CPU = torch.device("cpu")
FIXTURES = {"beats": "BEATs", "atst": "ATST-F", "fpasst": "fpasst", "m2d": "M2D", "asit": "ASIT"}
# Tensors of a released file that the model ignores.
IGNORED = {"atst": {"model.atst.mask_embed"}, "m2d": {"model.backbone.norm_stats"}}
# Constants of front ends, which a file may hold or not.
MAY_BE_THERE = {
    "atst": ("model.atst_mel.mel_transform.spectrogram.window", "model.atst_mel.mel_transform.mel_scale.fb"),
    "m2d": ("model.to_spec.mel_basis", "model.to_spec.stft.wsin"),
}
every_family = pytest.mark.parametrize("name", FULL)


@every_family
def test_the_model_is_made_of_the_released_tensors(name: str) -> None:
    shapes: dict[str, torch.Size] = {}
    for rule in parity_rules(FIXTURES[name])["tensors"]:
        shape = [len(rule["values"])] if "values" in rule else rule["shape"]
        for number in range(rule.get("count", 1)):
            shapes[rule["key"].replace("{}", str(number))] = torch.Size(shape)
    with torch.device("meta"):
        model = FULL[name].build(447, True)
    content = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    own = FULL[name].own_names(Checkpoint(path=Path("released.pt"), sha256="0" * 64, content=content))
    assert {key: tensor.shape for key, tensor in own.items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }
    assert IGNORED.get(name, set()) <= shapes.keys()
    assert len(own) == len(shapes) - len(IGNORED.get(name, ()))


@pytest.mark.parametrize("name", sorted(FULL.keys() - {"beats"}))
def test_every_norm_has_the_epsilon_of_the_published_models(name: str) -> None:
    """Too small to show in logits of ordinary clips, other than PyTorch's default all the same."""
    norms = [part for part in tiny_teacher(name).model.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert [part.eps for part in norms] == [1e-6] * 5


@every_family
def test_what_a_file_may_hold_beside_the_model_changes_nothing(name: str) -> None:
    waveforms, tensors = clips()[-2:], tiny_tensors(name)
    teacher = tiny_teacher(name)
    assert (teacher.provenance["family"], teacher.protocol) == (name, "frame")
    constants = {key: torch.ones(3) for key in (*MAY_BE_THERE.get(name, ()), *IGNORED.get(name, ()))}
    other = load_strong(tiny_checkpoint({**tensors, **constants}), CPU, tiny_family(name))
    assert torch.equal(other.frame_logits(waveforms), teacher.frame_logits(waveforms))
    headless = {key: tensor for key, tensor in tensors.items() if not key.startswith("weak_head.")}
    strong_only = load_strong(tiny_checkpoint(headless), CPU, tiny_family(name))
    assert (teacher.has_clip_logits, strong_only.has_clip_logits) == (True, False)
    assert torch.equal(strong_only.frame_logits(waveforms), teacher.frame_logits(waveforms))


@every_family
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", r"1 tensors missing \(.*1\..*fc2\.weight\)"),
        ("unknown", r"1 tensors unknown \(model\.surprise\)"),
        ("nan", r"1\..*fc2\.weight has 1 NaN or infinite of \d+ values"),
        ("shape", r"1\..*fc2\.weight has shape \((\d+), 48\), this model needs \(48, \1\)"),
        ("pre-trained", "without strong_head.weight"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(name: str, damage: str, reason: str) -> None:
    tensors = tiny_tensors(name)
    (weight,) = [key for key in tensors if key.endswith((".1.mlp.fc2.weight", "layers.1.fc2.weight"))]
    if damage == "missing":
        del tensors[weight]
    elif damage == "unknown":
        tensors["model.surprise"] = torch.zeros(2)
    elif damage == "nan":
        tensors[weight][3, 5] = torch.nan
    elif damage == "shape":
        tensors[weight] = tensors[weight].T
    else:
        tensors = {key: tensor for key, tensor in tensors.items() if "_head." not in key}
    with pytest.raises(TeacherError, match=f"strong_1.pt: .*{reason}"):
        load_strong(tiny_checkpoint(tensors), CPU, tiny_family(name))


@every_family
def test_the_other_families_checkpoints_are_refused(name: str) -> None:
    for other in FULL.keys() - {name}:
        with pytest.raises(
            TeacherError,
            match=rf"tensors of {FULL[other].published} \(.*\), not of {FULL[name].published}; give {other}=.*1\.pt$",
        ):
            load_strong(tiny_checkpoint(tiny_tensors(other)), CPU, FULL[name])


def clips() -> Tensor:
    """32 clips: noise of every loudness, between them silence, full scale, clicks, an offset, almost nothing."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(32, 160_000, generator=generator) * torch.logspace(-6, -0.6, 32)[:, None]
    waveforms[1] = 0.0
    waveforms[6] = torch.where(torch.arange(160_000) % 32 < 16, 1.0, -1.0)
    waveforms[11] = 0.0
    waveforms[11, ::20_000] = 1.0
    waveforms[17] = 0.9
    waveforms[23] = 1e-9
    waveforms[28, 30_000:] = 0.0
    return waveforms.clamp(-1.0, 1.0)


@every_family
def test_a_clip_does_not_hear_its_neighbours(name: str) -> None:
    """Through the model as a batch, as on an accelerator: on a CPU a teacher runs clips one by one."""
    teacher, waveforms = tiny_teacher(name), clips()

    def logits(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return teacher._frame_logits(teacher.front_end.compute(batch), 250)

    together = logits(waveforms)
    assert together.std() > 0.1
    for place in (0, 1, 6, 11, 17, 23, 28, 31):
        torch.testing.assert_close(logits(waveforms[place : place + 1])[0], together[place], atol=1e-4, rtol=0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(waveforms[order]), together[order], atol=1e-4, rtol=0)


@every_family
def test_every_context_gives_its_own_frames(name: str) -> None:
    teacher, waveforms = tiny_teacher(name), clips()[-2:]
    assert teacher.contexts_ms == ((10_000,) if name == "asit" else (10_000, 5_000, 4_000, 2_000))
    for context_ms in teacher.contexts_ms:
        with torch.inference_mode():
            features = teacher.front_end.compute(waveforms[:, : 16 * context_ms])
            logits = teacher._frame_logits(features, context_ms // 40)
            assert torch.isfinite(logits).all()
            assert logits.shape == (2, 447, context_ms // 40)
            assert teacher._clip_logits(features, context_ms // 40).shape == (2, 447)


@every_family
@pytest.mark.parametrize(("precision", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_half_precision_is_close(name: str, precision: str, bits: int) -> None:
    teacher, halved, waveforms = tiny_teacher(name), tiny_teacher(name), clips()[-4:]
    halved.use_precision(precision)
    expected = teacher.frame_logits(waveforms)
    difference = (halved.frame_logits(waveforms) - expected).abs().max() / expected.std()
    assert 0.0 < difference < 30 * 2.0**-bits


def no_autocast(device: str, *, enabled: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@every_family
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_device_is_never_waited_for(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", no_autocast)  # it knows no device without values
    teacher = tiny_teacher_elsewhere(name)
    teacher.use_precision(precision)
    waveforms, longer = (torch.empty(3, samples, device="meta") for samples in (160_000, 400_000))
    logits = [teacher.frame_logits(waveforms), teacher.clip_logits(waveforms)]
    logits += [Chunked(teacher, context).frame_logits(waveforms, [160_000, 0, 7]) for context in teacher.contexts_ms]
    logits += [Windows(teacher, AudioSpec(clip_ms=25_000)).frame_logits(longer, [400_000, 0, 200_000])]
    assert {(one.device.type, one.dtype) for one in logits} == {("meta", torch.float32)}


@pytest.mark.parametrize("average", ["logit", "probability"])
def test_an_ensemble_never_waits_for_its_device(average: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", no_autocast)
    members = [tiny_teacher_elsewhere(name) for name in FULL]
    ensemble = Ensemble(members, average=average, weights=[1.0, 2.0, 3.0, 4.0, 5.0])
    waveforms = torch.empty(2, 160_000, device="meta")
    assert ensemble.frame_logits(waveforms).device.type == "meta"
    assert ensemble.clip_logits(waveforms).device.type == "meta"
