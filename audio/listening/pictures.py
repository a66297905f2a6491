"""Small pictures of a waveform for a page: an SVG path, and a log-mel spectrogram as PNG."""

import io
from functools import cache

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.image import imsave
from torchaudio.transforms import MelSpectrogram

from audio.data.waveform import RATE, Waveform

WAVE_WIDTH, WAVE_HEIGHT = 160, 40
MIN_HALF_HEIGHT = 0.5
MEL_WIDTH, MEL_BANDS = 128, 64
WINDOW = 512
DYNAMIC_RANGE, MIN_PEAK = 80.0, 0.0  # decibels
COLOURS = 64


def waveform_path(waveform: Waveform) -> str:
    """Return the `d` of an SVG path in a box of WAVE_WIDTH by WAVE_HEIGHT.

    The path encloses the highest and the lowest sample of each column. Full scale is at the edges of the box.
    """
    columns = np.array_split(np.clip(waveform, -1, 1), min(WAVE_WIDTH, len(waveform)))
    x = (np.arange(len(columns)) + 0.5) * WAVE_WIDTH / len(columns)
    middle = WAVE_HEIGHT / 2
    top = middle * (1 - np.array([column.max() for column in columns])) - MIN_HALF_HEIGHT
    bottom = middle * (1 - np.array([column.min() for column in columns])) + MIN_HALF_HEIGHT
    points = [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]
    return "M" + "L".join(f"{column:.4g} {row:.4g}" for column, row in points) + "Z"


def spectrogram(waveform: Waveform) -> npt.NDArray[np.float32]:
    """Return decibels relative to the maximum, (MEL_BANDS, about MEL_WIDTH) in [-DYNAMIC_RANGE, 0].

    The time resolution is finer than that of the classifier's input (audio.data.mel). The reference is
    at least MIN_PEAK, so inaudible sound stays dark.
    """
    power = _mel(max(1, len(waveform) // MEL_WIDTH))(torch.from_numpy(waveform))
    decibels = 10 * power.clamp(min=1e-10).log10()
    return (decibels - decibels.max().clamp(min=MIN_PEAK)).clamp(min=-DYNAMIC_RANGE).numpy()


def spectrogram_png(waveform: Waveform) -> bytes:
    """Return the spectrogram as PNG, high frequencies at the top, in few colours for a small file."""
    level = np.rint((spectrogram(waveform)[::-1] / DYNAMIC_RANGE + 1) * (COLOURS - 1))
    file = io.BytesIO()
    imsave(
        file,
        level,
        vmin=0,
        vmax=COLOURS - 1,
        cmap=matplotlib.colormaps["magma"].resampled(COLOURS),
        format="png",
        pil_kwargs={"optimize": True},
    )
    return file.getvalue()


@cache
def _mel(hop: int) -> MelSpectrogram:
    return MelSpectrogram(RATE, n_fft=WINDOW, hop_length=hop, n_mels=MEL_BANDS, pad_mode="constant")
