"""The picture of a peek: of every clip its spectrogram, what people say and what label sets say, on one time axis."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline import write_atomic
from pipeline.features import log_mel
from sed_distill._page import rendered
from sed_distill._peek_clip import STRIP_COLUMNS, PeekedClip
from sed_distill._pictures import data_uri, spectrogram_image, spectrogram_png, strip_image, strip_png

_MEL_RATE = 16_000
_PAGE, _INK, _SOFT, _LANE = (255, 255, 255), (29, 31, 35), (102, 108, 118), (240, 241, 243)
_MARGIN, _NAMES, _SPECTROGRAM, _LINE, _STRIP = 12, 200, 120, 20, 15
_TITLE = 28  # letters


def write_html(path: Path, clips: Sequence[PeekedClip], *, title: str, seed: int) -> None:
    """One page without outside references, for light and dark, in which the clips can be heard."""
    shown = [{"place": place, **page_clip(clip)} for place, clip in enumerate(clips)]
    write_atomic(path, rendered("peek.html.j2", title=title, seed=seed, clips=shown))


def page_clip(clip: PeekedClip) -> dict[str, Any]:
    """What `clip.html.j2` shows of a clip: its pictures and its audio."""
    return {
        "clip": clip,
        "spectrogram": spectrogram_png(_mel(clip)),
        "audio": data_uri(_flac(clip), "audio/flac"),
        "rows": [
            {
                "name": name,
                "given": given,
                "strips": [{"title": strip.title, "png": strip_png(strip.values, strip.colour)} for strip in strips],
            }
            for name, given, strips in clip.rows()
        ],
    }


def write_png(path: Path, clips: Sequence[PeekedClip], *, title: str, seed: int) -> None:
    """The same for where no browser is: one picture, light."""
    pictures = [_clip_picture(place, clip) for place, clip in enumerate(clips)]
    width = 2 * _MARGIN + _NAMES + STRIP_COLUMNS
    whole = Image.new("RGB", (width, 2 * _MARGIN + _LINE + sum(picture.height for picture in pictures)), _PAGE)
    ImageDraw.Draw(whole).text((_MARGIN, _MARGIN), f"{title}, seed {seed}", fill=_INK, font=_font())
    top = 2 * _MARGIN + _LINE
    for picture in pictures:
        whole.paste(picture, (_MARGIN, top))
        top += picture.height
    content = io.BytesIO()
    whole.save(content, format="PNG", optimize=True)
    write_atomic(path, content.getvalue())


def _clip_picture(place: int, clip: PeekedClip) -> Image.Image:
    rows = clip.rows()
    lanes = sum(len(strips) for _, _, strips in rows)
    height = _LINE + _SPECTROGRAM + _LINE * len(rows) + _STRIP * lanes + 2 * _LINE
    picture = Image.new("RGB", (_NAMES + STRIP_COLUMNS, height), _PAGE)
    draw, font = ImageDraw.Draw(picture), _font()
    head = f"{place}  {clip.source}  {clip.key}  {clip.seconds:.3f} s, {clip.frames} frames"
    draw.text((0, 0), head, fill=_INK, font=font)
    mel = spectrogram_image(_mel(clip)).resize((STRIP_COLUMNS, _SPECTROGRAM))
    picture.paste(mel, (_NAMES, _LINE))
    top = _LINE + _SPECTROGRAM
    for name, given, strips in rows:
        draw.text((_NAMES, top + 2), name if given else f"{name} (not from people)", fill=_INK, font=font)
        top += _LINE
        for strip in strips:
            draw.text((_NAMES - 10, top - 2), strip.title[:_TITLE], fill=_SOFT, font=font, anchor="ra")
            draw.rectangle((_NAMES, top, _NAMES + STRIP_COLUMNS - 1, top + _STRIP - 3), fill=_LANE)
            bar = strip_image(strip.values, strip.colour).resize((STRIP_COLUMNS, _STRIP - 2))
            picture.paste(bar, (_NAMES, top), mask=bar)
            top += _STRIP
    for second in np.linspace(0, clip.clip_s, 6):
        x = _NAMES + STRIP_COLUMNS * second / clip.clip_s
        anchor = "ma" if 0 < second < clip.clip_s else "la" if second == 0 else "ra"
        draw.text((x, top + 2), f"{second:g} s", fill=_SOFT, font=font, anchor=anchor)
    return picture


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=12)


def _mel(clip: PeekedClip) -> npt.NDArray[np.float32]:
    """Log mel of the clip padded to its full length, whatever its rate: [128, 100 a second]."""
    padded = np.zeros(round(clip.clip_s * clip.sample_rate), dtype=np.float32)
    padded[: len(clip.waveform)] = clip.waveform
    if clip.sample_rate != _MEL_RATE:
        padded = soxr.resample(padded, clip.sample_rate, _MEL_RATE)
    mel: npt.NDArray[np.float32] = log_mel(torch.from_numpy(padded)[None], periodic_window=False)[0].numpy()
    return mel


def _flac(clip: PeekedClip) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, clip.waveform, clip.sample_rate, format="FLAC", subtype="PCM_16")
    return content.getvalue()
