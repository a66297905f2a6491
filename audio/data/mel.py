"""Log-mel spectrograms of one-second clips, the input of the classifier."""

from functools import cache

import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from audio.data.waveform import RATE

CLIP = RATE
"""Samples per clip of the classifier: one second."""
MELS, WINDOW, HOP = 32, 2048, 512
FRAMES = CLIP // HOP + 1
RANGE = 80.0
"""Dynamic range (decibels): values further below the maximum of a clip are clamped."""
SMALLEST_POWER = 1e-10


def log_mel(waveforms: Tensor) -> Tensor:
    """Return decibels relative to the maximum of each clip, (rows, MELS, frames) float32 in [-RANGE, 0].

    waveforms: (rows, samples) floating point at 16 kHz; frames is samples // HOP + 1. The settings are those
    of the published classifier: windows of 2,048 samples, 32 mel bands on Slaney's scale, power. The result
    does not depend on loudness. Digital silence gives 0 everywhere.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        power = _spectrogram(waveforms.device)(waveforms.float()).clamp(min=SMALLEST_POWER)
        decibels = 10 * (power.log10() - power.amax(dim=(-2, -1), keepdim=True).log10())
        return decibels.clamp(min=-RANGE)


def one_second(waveform: Tensor) -> Tensor:
    """Cut a clip (samples,) to a second, remove its mean, and pad it with silence: (CLIP,) float32."""
    clip = centred(waveform)
    return torch.nn.functional.pad(clip, (0, CLIP - len(clip)))


def centred(waveform: Tensor) -> Tensor:
    """Return the first second of a clip (samples,) without its mean: (at most CLIP,) float32.

    The quantizer `paper` adds an offset to silence; without this, padding would add a step. Raises ValueError
    for an empty clip, and for NaN and infinity.
    """
    if not waveform.numel():
        raise ValueError("The clip holds no samples. Leave it out.")
    if not waveform.isfinite().all():
        raise ValueError("The clip holds NaN or infinity. Leave it out, and check its source.")
    second = waveform[:CLIP].float()
    return second - second.mean()


@cache
def _spectrogram(device: torch.device) -> MelSpectrogram:
    return MelSpectrogram(
        RATE,
        n_fft=WINDOW,
        hop_length=HOP,
        n_mels=MELS,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    ).to(device)
