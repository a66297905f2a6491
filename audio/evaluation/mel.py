"""Log-mel spectrograms of clips of one second: what the classifier sees, and what pictures show."""

from functools import cache

import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from audio.data.waveform import RATE

CLIP = RATE
"""Samples in a clip that is judged: one second."""
MELS, WINDOW, HOP = 32, 2048, 512
FRAMES = CLIP // HOP + 1
RANGE = 80.0
"""Decibels below the loudest value of a clip at which everything counts as silence."""
SMALLEST_POWER = 1e-10


def log_mel(waveforms: Tensor) -> Tensor:
    """Decibels below the loudest value of each clip, (rows, MELS, frames) in [-RANGE, 0], float32.

    waveforms: (rows, samples) floating point at 16 kHz; frames is samples // HOP + 1. As in the classifier of
    the published metrics: windows of 2,048 samples, 32 mel bands on Slaney's scale, power. Because the
    reference is the clip's own maximum, loudness has no influence. Digital silence is 0 everywhere.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        power = _spectrogram(waveforms.device)(waveforms.float()).clamp(min=SMALLEST_POWER)
        decibels = 10 * (power.log10() - power.amax(dim=(-2, -1), keepdim=True).log10())
        return decibels.clamp(min=-RANGE)


def one_second(waveform: Tensor) -> Tensor:
    """A clip (samples,) as `centred` gives it, padded with silence at its end: (CLIP,) float32."""
    clip = centred(waveform)
    return torch.nn.functional.pad(clip, (0, CLIP - len(clip)))


def centred(waveform: Tensor) -> Tensor:
    """The first second of a clip (samples,), without its mean: (at most CLIP,) float32.

    The quantizer `paper` moves silence by as much as it likes: a clip padded with silence would otherwise end
    with a step. Raises ValueError for an empty clip, and for NaN and infinity.
    """
    if not waveform.numel():
        raise ValueError("The clip holds no samples: leave it out.")
    if not waveform.isfinite().all():
        raise ValueError("The clip holds NaN or infinity: leave it out, and look where it came from.")
    part = waveform[:CLIP].float()
    return part - part.mean()


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
