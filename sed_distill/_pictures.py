"""Pictures as PNG data URIs: a mel spectrogram and one-row probability strips that share its time axis."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_HEAT = ((0.0, (6, 4, 24)), (0.3, (70, 18, 96)), (0.55, (170, 45, 92)), (0.78, (240, 120, 50)), (1.0, (255, 246, 190)))


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def spectrogram_png(mel: npt.NDArray[np.float32]) -> str:
    return _png(spectrogram_image(mel))


def strip_png(probabilities: npt.NDArray[np.float32], colour: tuple[int, int, int]) -> str:
    return _png(strip_image(probabilities, colour))


def spectrogram_image(mel: npt.NDArray[np.float32]) -> Image.Image:
    """Log-mel [bands, frames], low bands first -> low bands lowest, from the clip's 2nd to 99.7th percentile."""
    low, high = np.percentile(mel, (2.0, 99.7))
    level = np.clip((mel[::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
    stops, colours = [stop for stop, _ in _HEAT], np.array([colour for _, colour in _HEAT], dtype=np.float64)
    rgb = np.stack([np.interp(level, stops, colours[:, channel]) for channel in range(3)], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


def strip_image(probabilities: npt.NDArray[np.float32], colour: tuple[int, int, int]) -> Image.Image:
    """Probabilities [frames] -> one pixel high, its opacity the probability: it suits light and dark pages."""
    rgba = np.empty((1, len(probabilities), 4), dtype=np.uint8)
    rgba[0, :, :3] = colour
    rgba[0, :, 3] = np.rint(np.clip(probabilities, 0.0, 1.0) * 255)
    return Image.fromarray(rgba)


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")
