"""Small pictures of a sound for a page: the waveform as an SVG path, the log-mel spectrogram as a PNG."""

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
THINNEST = 0.5
MEL_WIDTH, MEL_BANDS = 128, 64
WINDOW = 512
DECIBELS, QUIETEST = 80.0, 0.0
COLOURS = 64


def waveform_path(waveform: Waveform) -> str:
    """The `d` of an SVG path in a box of WAVE_WIDTH by WAVE_HEIGHT: from the highest sample of each column to
    its lowest, full scale at the edges of the box, and never too thin to be seen."""
    columns = np.array_split(np.clip(waveform, -1, 1), min(WAVE_WIDTH, len(waveform)))
    x = (np.arange(len(columns)) + 0.5) * WAVE_WIDTH / len(columns)
    middle = WAVE_HEIGHT / 2
    top = middle * (1 - np.array([column.max() for column in columns])) - THINNEST
    bottom = middle * (1 - np.array([column.min() for column in columns])) + THINNEST
    points = [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]
    return "M" + "L".join(f"{across:.4g} {down:.4g}" for across, down in points) + "Z"


def spectrogram(waveform: Waveform) -> npt.NDArray[np.float32]:
    """(MEL_BANDS, about MEL_WIDTH) decibels below the loudest point, at least -DECIBELS.

    Finer in time than what the classifier sees (audio.evaluation.mel). What is too quiet to be
    heard stays dark.
    """
    power = _mel(max(1, len(waveform) // MEL_WIDTH))(torch.from_numpy(waveform))
    decibels = 10 * power.clamp(min=1e-10).log10()
    return (decibels - decibels.max().clamp(min=QUIETEST)).clamp(min=-DECIBELS).numpy()


def spectrogram_png(waveform: Waveform) -> bytes:
    """A PNG of the spectrogram, high frequencies at the top, in few colours so that it stays small."""
    level = np.rint((spectrogram(waveform)[::-1] / DECIBELS + 1) * (COLOURS - 1))
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
