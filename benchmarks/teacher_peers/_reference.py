"""The published loop of each family, from a checkout of PretrainedSED."""

import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pipeline.features import KaldiFbank, kaldi_fbank

_WRAPPERS = {
    "beats": "models.beats.BEATs_wrapper:BEATsWrapper",
    "atst": "models.atstframe.ATSTF_wrapper:ATSTWrapper",
    "fpasst": "models.frame_passt.fpasst_wrapper:FPaSSTWrapper",
    "m2d": "models.m2d.M2D_wrapper:M2DWrapper",
    "asit": "models.asit.ASIT_wrapper:ASiTWrapper",
}


def reference_loop(folder: Path, name: str) -> Callable[[Tensor], Tensor]:
    """Float32 [1, 160000] -> logits, with random weights. ImportError where a package is missing that it needs."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module, _, wrapper = _WRAPPERS[name].partition(":")
    alone = name == "beats" and importlib.util.find_spec("torchaudio") is None
    with _stand_in() if alone else nullcontext():
        imported = importlib.import_module(module)
    if name == "fpasst":  # no download of weights that random ones replace
        imported.get_model = partial(imported.get_model, pretrained=False)
    heads = importlib.import_module("models.prediction_wrapper").PredictionsWrapper
    model = heads(getattr(imported, wrapper)(), embed_dim=3840 if name == "m2d" else 768).eval()

    def loop(waveform: Tensor) -> Tensor:
        with torch.no_grad(), redirect_stdout(io.StringIO()):  # fPaSST prints the shapes of its first clip
            return model(model.mel_forward(waveform))[0]

    return loop


@contextmanager
def _stand_in() -> Iterator[None]:
    """The kaldi filter bank of torchaudio by ours, no slower (3 ms a clip beside 4), for what is imported here."""
    torchaudio: Any = ModuleType("torchaudio")
    torchaudio.compliance = ModuleType("torchaudio.compliance")
    torchaudio.compliance.kaldi = ModuleType("torchaudio.compliance.kaldi")
    torchaudio.compliance.kaldi.fbank = _fbank
    parts = {part.__name__: part for part in (torchaudio, torchaudio.compliance, torchaudio.compliance.kaldi)}
    sys.modules.update(parts)
    try:
        yield
    finally:
        for part in parts:
            del sys.modules[part]


def _fbank(
    waveform: Tensor, *, num_mel_bins: int, sample_frequency: int, frame_length: int, frame_shift: int
) -> Tensor:
    spec = KaldiFbank(sample_rate=sample_frequency, mel_bins=num_mel_bins, frame_ms=frame_length, shift_ms=frame_shift)
    return kaldi_fbank(waveform, spec)[0]
