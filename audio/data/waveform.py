"""Waveforms: any audio file in, mono at 16 kHz; 16-bit WAV files out (audio/data/stream.py: piece by piece).

A waveform is float32 (length,) in [-1, 1]. What is read is what the file holds: a silent file is silence, a
clipped one stays clipped, and a floating-point file may reach beyond [-1, 1], where quantizers clip it.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torchaudio.transforms import Resample

from core.storage.atomic import replaced_atomically

RATE = 16_000
FULL_SCALE = 1 << 15
BLOCK = 1 << 20
LARGEST_FILTER = 1 << 26
UNKNOWN_SIZE = 0x7FFF_0000
"""From here on the size in a WAV header means that a program wrote to a pipe and could not know it."""

Waveform = npt.NDArray[np.float32]


def read_waveform(path: str | Path) -> Waveform:
    """The samples (length,) of a WAV, FLAC or OGG file: channels averaged, resampled to 16 kHz.

    Raises FileNotFoundError; ValueError for a file that is not audio, is damaged or cut short, holds no
    sample, NaN or infinity, or has a sample rate that cannot be converted.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no audio file {path}: check the name.")
    if _is_cut_short(path):
        raise ValueError(f"{path} is cut short: it holds less than its header says; replace it or remove it.")
    try:
        with soundfile.SoundFile(path) as file:
            rate, blocks = file.samplerate, file.blocks(BLOCK, dtype="float32", always_2d=True)
            mono = np.concatenate([np.zeros(0, np.float32), *(block.mean(axis=1) for block in blocks)])
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path} cannot be read as audio ({error.error_string.rstrip('.')}): it is damaged, or no WAV, "
            "FLAC or OGG file; replace it or remove it."
        ) from error
    if not len(mono):
        raise ValueError(f"{path} holds no samples: replace it or remove it.")
    if not np.isfinite(mono).all():
        first = int(np.flatnonzero(~np.isfinite(mono))[0])
        raise ValueError(f"{path} holds NaN or infinity, first at sample {first:,}: replace it or remove it.")
    return resample(mono, rate, str(path))


def resample(waveform: Waveform, rate: int, name: str = "The waveform") -> Waveform:
    """A waveform (length,) of `rate` samples a second at 16 kHz: (ceil(length * 16,000 / rate),).

    By torchaudio, with the Kaiser window that it documents as the counterpart of librosa's best resampler.
    Raises ValueError, by `name`, for a rate that shares too small a divisor with 16,000.
    """
    if rate == RATE:
        return waveform
    divisor = math.gcd(rate, RATE)
    if rate * RATE > LARGEST_FILTER * divisor**2:
        raise ValueError(
            f"{name} has {rate:,} samples a second, which convert to {RATE:,} by no simple ratio: convert it "
            "to a common rate with another program first."
        )
    return _resampler(rate)(torch.from_numpy(waveform)[None])[0].numpy()


def write_waveform(path: str | Path, waveform: Waveform) -> None:
    """Write samples (length,) at 16 kHz as a 16-bit WAV file, which appears whole or not at all.

    Raises ValueError for samples that are not finite.
    """
    pcm = as_pcm(waveform)
    with replaced_atomically(Path(path)) as temporary:
        soundfile.write(temporary, pcm, RATE, format="WAV")


def as_pcm(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Samples as 16-bit integers, clipped to their range; ValueError where they are not finite."""
    if not np.isfinite(waveform).all():
        raise ValueError("The waveform holds NaN or infinity, so it is not written: look where it came from.")
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def _is_cut_short(path: Path) -> bool:
    """Whether a WAV file is shorter than it says, which libsndfile passes over in silence."""
    with path.open("rb") as file:
        kind, size = file.read(4), int.from_bytes(file.read(4), "little")
    return kind == b"RIFF" and path.stat().st_size - 8 < size < UNKNOWN_SIZE


@cache
def _resampler(rate: int) -> Resample:
    return Resample(
        rate,
        RATE,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )
