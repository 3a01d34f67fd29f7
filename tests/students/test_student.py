import json

import numpy as np
import pytest
import torch

from pipeline import UsageError
from pipeline.features import MelBand
from students import StudentModel, frame_mobilenet
from tests.students.parity_students import HERE, SEED, WIDTHS, parity_student, read_clip, rule, worst_difference


@pytest.mark.parametrize(
    ("width", "parameters"), [(0.4, 860_318), (0.6, 1_615_022), (1.0, 3_830_798), (2.0, 13_359_254), (3.0, 28_574_734)]
)
def test_published_parameter_counts(width, parameters):
    with torch.device("meta"):
        student = StudentModel(width=width, vocabulary_size=447)
    assert sum(parameter.numel() for parameter in student.parameters()) == parameters


@pytest.mark.parametrize("name", WIDTHS)
def test_equals_the_reference_code(shared, name):
    """Same keys, same shapes, same logits: 1e-3 of their standard deviation is asked for."""
    folder = shared / "parity"
    fixture = json.loads((folder / f"{name}.tensors.json").read_text())
    student = parity_student(WIDTHS[name])
    ours = {key: list(value.shape) for key, value in student.state_dict().items() if "num_batches" not in key}
    assert ours == {key: shape for key, shape, _, _ in fixture["tensors"]}
    assert fixture["seed"] == SEED
    for key, shape, _, (mean, std, absolute, _) in fixture["tensors"]:
        assert rule(key, tuple(shape)) == (mean, pytest.approx(std, rel=1e-12), absolute)
    assert worst_difference(student, folder, name) < 1e-4


@pytest.mark.parametrize("name", ["student_fmn04", "student_fmn10"])
def test_pinned_outputs(name):
    with torch.inference_mode():
        logits = parity_student(WIDTHS[name])(read_clip(HERE / "short_padded.flac"))
    assert logits.frame.shape == (1, 447, 250)
    assert logits.clip.shape == (1, 447)
    for kind, want in json.loads((HERE / "students.json").read_text())[name].items():
        got = getattr(logits, kind).flatten().numpy()[want["positions"]]
        np.testing.assert_allclose(got, want["values"], rtol=0, atol=1e-3 * want["std"])


def test_a_clip_does_not_depend_on_its_neighbours():
    student = parity_student(0.2)
    waveforms = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = student(waveforms), student(waveforms[1:2])
    assert together.frame.std() > 0.1
    torch.testing.assert_close(together.frame[1:2], alone.frame, rtol=0, atol=1e-4)
    torch.testing.assert_close(together.clip[1:2], alone.clip, rtol=0, atol=1e-4)


def test_weights_are_a_function_of_the_seed():
    first, again, other = (frame_mobilenet(0.2, 5, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["strong_head.weight"], other["strong_head.weight"])
    assert not torch.equal(first["model.fmn.features.0.0.weight"], other["model.fmn.features.0.0.weight"])


def test_the_band_reaches_the_filters():
    student = parity_student(0.2)
    waveforms = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        moved = student(waveforms, MelBand(low_hz=9.0, high_hz=6_001.0)).frame
        assert (student(waveforms).frame - moved).abs().max() > 0.1


@pytest.mark.parametrize(("width", "classes"), [(0.1, 5), (3.1, 5), (1.0, 0)])
def test_refuses_sizes_that_make_no_student(width, classes):
    with pytest.raises(UsageError, match="needs a width"):
        frame_mobilenet(width, classes)
