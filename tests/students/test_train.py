import math

import pytest
import torch

from pipeline import FormatError, UsageError, Vocabulary
from shards import Batch
from students import TrainConfig, TrainingError, frame_mobilenet, load_student, predict, save_student, train_student

CLASSES = Vocabulary(mids=("/m/low", "/m/high"), names=("low tone", "high tone"))
SAMPLES, FRAMES = 25_600, 40


def batch(step=0, clips=4):
    """Noise with one of two tones in the first or second half; each clip's tone and half are its labels."""
    generator = torch.Generator().manual_seed(step)
    waveform = 0.02 * torch.randn(clips, SAMPLES, generator=generator)
    truth = torch.zeros(clips, 2, FRAMES)
    time_s = torch.arange(SAMPLES // 2) / 16_000
    for clip in range(clips):
        tone, half = int(torch.randint(2, (), generator=generator)), clip % 2
        waveform[clip, half * SAMPLES // 2 :][: SAMPLES // 2] += 0.3 * torch.sin(
            2 * math.pi * (400, 3_000)[tone] * time_s
        )
        truth[clip, tone, half * FRAMES // 2 :][: FRAMES // 2] = 1.0
    return Batch(
        waveform=waveform,
        targets={"soft": 0.9 * truth + 0.05, "hard_strong": truth, "hard_weak": truth.amax(dim=2)},
        weight={
            "soft": torch.ones(clips, 2, FRAMES),
            "hard_strong": torch.ones(clips),
            "hard_weak": torch.ones(clips, 2),
        },
        valid_frames=torch.full((clips,), FRAMES),
        source=["strong"] * clips,
        key=[f"clip{step}-{clip}_0" for clip in range(clips)],
    )


def config(**changes):
    usual = {"terms": (("soft", 0.9), ("hard_strong", 0.1)), "steps": 2, "width": 0.2, "batch_norm_momentum": 0.1}
    return TrainConfig(**{**usual, **changes})


def test_learns_which_tone_sounds_when():
    trained = train_student(config(steps=60, learning_rate=1e-2), [batch(step) for step in range(60)], CLASSES)
    assert trained.history[-1].loss < 0.6 * trained.history[0].loss
    assert trained.clips == 240
    unseen = batch(1_000)
    probs = predict(trained.student, unseen.waveform, batch_size=3)
    assert probs.shape == (4, 2, FRAMES)
    truth = unseen.targets["hard_strong"] > 0
    assert probs[truth].mean() > probs[~truth].mean() + 0.3


def test_heads_start_at_the_prior():
    fresh = frame_mobilenet(0.2, 2, seed=3, prior=0.03).eval()
    with torch.inference_mode():
        logits = fresh(batch().waveform)
    assert logits.frame.sigmoid().mean() == pytest.approx(0.03, rel=0.2)
    assert logits.clip.sigmoid().mean() == pytest.approx(0.03, rel=0.2)
    first = train_student(config(prior=0.03), [batch(0), batch(1)], CLASSES).history[0].loss
    assert first > train_student(config(), [batch(0), batch(1)], CLASSES).history[0].loss, "half the cells are active"


def test_equal_seeds_give_equal_weights():
    first, again, other = (
        train_student(config(seed=seed), [batch(0), batch(1)], CLASSES).student.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["strong_head.weight"], other["strong_head.weight"])


def test_mel_jitter_changes_the_training_and_only_that():
    with_jitter, without = (
        train_student(config(mel_jitter=jitter), [batch(0), batch(1)], CLASSES).student for jitter in (True, False)
    )
    assert not torch.equal(with_jitter.strong_head.weight, without.strong_head.weight)
    waveform = batch(5).waveform
    assert torch.equal(predict(with_jitter, waveform), predict(with_jitter, waveform))


def test_batch_norm_momentum_reaches_the_running_statistics():
    """A short run at the published 0.01 is evaluated on statistics of its untrained beginning."""
    slow, fast = (
        train_student(config(batch_norm_momentum=momentum), [batch(0), batch(1)], CLASSES).student.state_dict()
        for momentum in (0.01, 0.5)
    )
    name = "model.fmn.features.0.1.running_mean"
    assert fast[name].norm() > 20 * slow[name].norm()


def test_terms_and_their_coefficients_make_the_loss():
    step = train_student(config(), [batch(0), batch(1)], CLASSES).history[1]
    assert step.loss == pytest.approx(0.9 * step.terms["soft"] + 0.1 * step.terms["hard_strong"], rel=1e-5)


@pytest.mark.parametrize(("clip_logits", "changed"), [("head", "weak_head"), ("max", "strong_head")])
def test_a_clip_label_teaches_the_head_it_meets(clip_logits, changed):
    weak = config(terms=(("hard_weak", 1.0),), clip_logits=clip_logits)
    before = train_student(config(terms=(("hard_weak", 1.0),), learning_rate=1e-12), [batch(0)] * 2, CLASSES).student
    after = train_student(weak, [batch(0)] * 2, CLASSES).student
    moved = {
        head
        for head in ("weak_head", "strong_head")
        if (getattr(after, head).bias - getattr(before, head).bias).abs().max() > 1e-6
    }
    assert moved == {changed}


def test_bfloat16_stays_close_to_float32():
    exact, rough = (train_student(config(bfloat16=on), [batch(0), batch(1)], CLASSES).history for on in (False, True))
    assert exact[0].loss != rough[0].loss
    assert rough[0].loss == pytest.approx(exact[0].loss, rel=0.02)


def test_learning_rate_warms_up_and_follows_the_cosine():
    schedule = config(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [schedule.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    seen = []
    train_student(config(warmup_steps=1), [batch(0), batch(1)], CLASSES, on_step=seen.append)
    assert [(step.step, step.learning_rate) for step in seen] == [(0, 3e-3), (1, 3e-3)]


def test_the_schedule_reaches_the_weights():
    """Adam moves a weight by about the learning rate a step: by 1 + 1/2 of it in two steps of a cosine over two."""
    student = train_student(config(learning_rate=1e-3), [batch(0)] * 2, CLASSES).student
    assert student.strong_head.bias.abs().max().item() == pytest.approx(1.5e-3, rel=0.03)


def test_a_loss_that_is_no_number_stops_and_names_the_clips():
    bad = batch(1)
    bad.targets["soft"][2, 0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"step 1 on clips clip1-0_0, clip1-1_0, clip1-2_0, clip1-3_0"):
        train_student(config(steps=3), [batch(0), bad, batch(2)], CLASSES)


def test_batches_that_end_early_or_lack_a_target_are_refused():
    with pytest.raises(UsageError, match="ended after 1 of 2 steps"):
        train_student(config(), [batch(0)], CLASSES)
    with pytest.raises(UsageError, match="no target 'teacher', only hard_strong, hard_weak, soft"):
        train_student(config(terms=(("teacher", 1.0),)), [batch(0)] * 2, CLASSES)


def test_takes_no_more_batches_than_steps():
    batches = iter([batch(0), batch(1), batch(2)])
    train_student(config(), batches, CLASSES)
    assert next(batches).key[0] == "clip2-0_0"


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": ()},
        {"terms": (("soft", 0.5), ("soft", 0.5))},
        {"terms": (("soft", 0.0),)},
        {"warmup_steps": 2},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"batch_norm_momentum": 0.0},
        {"prior": 1.0},
        {"clip_logits": "mean"},
    ],
)
def test_refuses_a_configuration_that_means_nothing(changes):
    with pytest.raises(UsageError):
        config(**changes)


def test_a_saved_student_comes_back(tmp_path):
    trained = train_student(config(), [batch(0), batch(1)], CLASSES)
    path = tmp_path / "student.pt"
    save_student(path, trained)
    student, vocabulary = load_student(path)
    assert vocabulary == CLASSES
    waveform = batch(5).waveform
    assert torch.equal(predict(student, waveform), predict(trained.student, waveform))
    released_layout = torch.load(path, weights_only=True)["state"]
    assert {key.split(".")[0] for key in released_layout} == {"model", "strong_head", "weak_head"}


def test_other_files_are_refused_by_name(tmp_path):
    trained = train_student(config(), [batch(0), batch(1)], CLASSES)
    path = tmp_path / "student.pt"
    save_student(path, trained)
    whole = path.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="student"):
            load_student(path)
    saved = {"format": "sed-distill student", "version": 0, "width": 0.4, "vocabulary": CLASSES.to_json()}
    saved |= {"config": {}, "state": {}}
    for changes, message in (
        ({"format": "other"}, "of this project"),
        ({"version": 9}, "another version"),
        ({}, "do not fit"),
    ):
        torch.save({**saved, **changes}, path)
        with pytest.raises(FormatError, match=message):
            load_student(path)
    with pytest.raises(FormatError, match="absent"):
        load_student(tmp_path / "absent.pt")
