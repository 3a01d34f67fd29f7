"""The demo's report: one HTML page without outside references, light and dark."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import AudioSpec, Event, Vocabulary, frame_labels, read_hard, waveform_into, write_atomic
from pipeline.features import log_mel
from sed_distill._comparison import load_probs
from sed_distill._page import SHOWN_FROM, TEACHER_COLOUR, TRUTH_COLOUR, rendered
from sed_distill._pictures import data_uri, spectrogram_png, strip_png
from shards import AudioReader, Dataset

CLIPS_SHOWN = 6
STUDENT_COLOURS = ((214, 137, 32), (28, 109, 208))


def write_report(path: Path, demo: dict[str, Any], dataset: Dataset, vocabulary: Vocabulary, probs_path: Path) -> None:
    """Write the page from demo.json's content and the probabilities kept by the evaluation."""
    models = [
        {**model, "colour": colour}
        for model, colour in zip(demo["psds1"]["models"], (TEACHER_COLOUR, *STUDENT_COLOURS), strict=True)
    ]
    page = {**demo, "psds1": {**demo["psds1"], "models": models}}
    legend = [{"title": "Truth", "colour": TRUTH_COLOUR}, *models]
    clips = _clips(dataset, vocabulary, models, probs_path)
    write_atomic(path, rendered("demo.html.j2", demo=page, legend=legend, clips=clips))


def _clips(
    dataset: Dataset, vocabulary: Vocabulary, models: list[dict[str, Any]], probs_path: Path
) -> list[dict[str, Any]]:
    """Eval clips as pictures, from those with most overlap of different classes to those with none."""
    hard = {row["key"]: row for row in read_hard(dataset.hard_path("eval")).to_pylist()}
    keys, probs = load_probs(probs_path)
    truth = np.stack([frame_labels(_events(hard[key]), vocabulary) for key in keys]).astype(np.float32)
    overlap = np.maximum(truth.sum(axis=1) - 1, 0).sum(axis=1)
    by_overlap = np.argsort(-overlap, kind="stable")
    chosen = by_overlap[np.linspace(0, len(keys) - 1, min(CLIPS_SHOWN, len(keys))).astype(int)]
    audio = _audio(dataset, {keys[clip] for clip in chosen})
    shown = []
    for clip in chosen:
        rows = [("truth", truth[clip], TRUTH_COLOUR)]
        rows += [(model["name"], probs[model["name"]][clip], model["colour"]) for model in models]
        heard = np.max([values.max(axis=1) >= SHOWN_FROM for _, values, _ in rows], axis=0)
        present = truth[clip].any(axis=1)
        classes = sorted(
            np.flatnonzero(heard | present), key=lambda column: (not present[column], vocabulary.names[column])
        )
        pcm, flac = audio[keys[clip]]
        shown.append(
            {
                "key": keys[clip],
                "spectrogram": spectrogram_png(_mel(pcm)),
                "audio": data_uri(flac, "audio/flac"),
                "classes": [
                    {
                        "name": vocabulary.names[column],
                        "true": bool(present[column]),
                        "strips": [
                            {"title": title, "png": strip_png(values[column], colour)} for title, values, colour in rows
                        ],
                    }
                    for column in classes
                ],
            }
        )
    return shown


def _events(row: dict[str, Any]) -> list[Any]:
    return [Event(event["onset_ms"], event["offset_ms"], event["mid"]) for event in row["events"]]


def _audio(dataset: Dataset, keys: set[str]) -> dict[str, tuple[np.ndarray, bytes]]:
    """PCM and the stored FLAC of each clip."""
    found = {}
    for shard in dataset.audio_shards("eval", AudioSpec().name):
        with AudioReader(shard) as reader:
            for row, key in enumerate(shard.clips.key):
                if key in keys:
                    found[key] = (reader.read(row), reader.read_bytes(row))
    return found


def _mel(pcm: np.ndarray) -> np.ndarray:
    """Log mel [128, 1000] of a clip padded to 10 s: the students' own front end."""
    waveform = np.empty((1, AudioSpec().max_samples), dtype=np.float32)
    waveform_into(waveform[0], pcm)
    return log_mel(torch.from_numpy(waveform), periodic_window=False)[0].numpy()
