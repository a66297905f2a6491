"""Waveforms: any audio file in, mono at 16 kHz; 16-bit WAV files out, whole or segment by segment.

A waveform is float32 (length,) in [-1, 1]. Reading changes no level: a silent file is silence, a clipped file
stays clipped, and a floating-point file may exceed [-1, 1], where quantizers clip it.
"""

import math
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torchaudio.transforms import Resample

from audio.data.containers import UNKNOWN_SIZE, sound_source
from core.storage.atomic import replaced_atomically

RATE = 16_000
FULL_SCALE = 1 << 15
BLOCK = 1 << 20
LARGEST_FILTER = 1 << 26
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Range of the sample rates that are read (Hz); a damaged header can hold any."""
BYTES = 2
HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
BEFORE_DATA = HEADER.size - 8
LARGEST = ((1 << 32) - 1 - BEFORE_DATA) // BYTES
"""Maximum number of samples (37 hours) in a WAV file, because its sizes have 32 bits."""

Waveform = npt.NDArray[np.float32]


class Recording(NamedTuple):
    """Audio file: mono waveform (length,) at 16 kHz, with the rate (Hz) and the channels of the file."""

    waveform: Waveform
    rate: int
    channels: int


def read_waveform(path: str | Path) -> Waveform:
    """Return the waveform (length,) of an audio file, as read_recording does."""
    return read_recording(path).waveform


def read_recording(path: str | Path) -> Recording:
    """Read an audio file of a format of libsndfile: channels averaged, resampled to 16 kHz.

    Wrong sizes in the header of a WAV file are repaired as audio.data.containers describes. Raises
    FileNotFoundError; ValueError for a file that is not audio, is damaged or truncated, holds no samples, NaN
    or infinity, or has a sample rate that cannot be converted.
    """
    path = Path(path)
    try:
        with _open_sound(path) as file:
            rate, channels = file.samplerate, file.channels
            _require_rate(rate, str(path))
            blocks = file.blocks(max(1, BLOCK // channels), dtype="float32", always_2d=True)
            mono = np.concatenate([np.zeros(0, np.float32), *(block.mean(axis=1) for block in blocks)])
    except soundfile.SoundFileRuntimeError as error:
        raise _not_audio(path, error) from error
    if not len(mono):
        raise ValueError(f"{path} holds no samples. Replace or remove it.")
    if not np.isfinite(mono).all():
        first = int(np.flatnonzero(~np.isfinite(mono))[0])
        raise ValueError(f"{path} holds NaN or infinity, first at sample {first:,}. Replace or remove it.")
    return Recording(resample(mono, rate, str(path)), rate, channels)


def length_and_rate(path: str | Path) -> tuple[int, int]:
    """Return the length of an audio file at 16 kHz (samples), and its own rate (Hz), from its header.

    Raises FileNotFoundError, and ValueError for a file that is not audio, is truncated, or has an impossible
    rate.
    """
    path = Path(path)
    try:
        with _open_sound(path) as file:
            _require_rate(file.samplerate, str(path))
            return math.ceil(file.frames * RATE / file.samplerate), file.samplerate
    except soundfile.SoundFileRuntimeError as error:
        raise _not_audio(path, error) from error


def resample(waveform: Waveform, rate: int, name: str = "The waveform") -> Waveform:
    """Resample a waveform (length,) from `rate` to 16,000 samples per second.

    The Kaiser window is the one that torchaudio documents as equivalent to librosa's best resampler. `name`
    names the waveform in errors. Raises ValueError if rate and 16,000 have too small a common divisor, or if
    the rate is outside LOWEST_RATE to HIGHEST_RATE.
    """
    if rate == RATE:
        return waveform
    _require_rate(rate, name)
    divisor = math.gcd(rate, RATE)
    if rate * RATE > LARGEST_FILTER * divisor**2:
        raise ValueError(
            f"{name} has {rate:,} samples per second, which have no simple ratio to {RATE:,}. Convert it to "
            "a common rate with another program first."
        )
    return _resampler(rate)(torch.from_numpy(waveform)[None])[0].numpy()


def write_waveform(path: str | Path, waveform: Waveform) -> None:
    """Write a waveform (length,) at 16 kHz as a 16-bit WAV file, atomically.

    Raises ValueError for NaN or infinity.
    """
    pcm = as_pcm(waveform)
    with replaced_atomically(Path(path)) as temporary:
        soundfile.write(temporary, pcm, RATE, format="WAV")


def as_pcm(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Return samples as 16-bit integers, clipped to their range. Raises ValueError for NaN or infinity."""
    if not np.isfinite(waveform).all():
        raise ValueError("The waveform holds NaN or infinity, so it was not written. Check its source.")
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def write_samples(path: Path, start: int, waveform: Waveform) -> None:
    """Write a waveform (length,) at 16 kHz into a 16-bit WAV file from sample `start` on.

    start=0 creates or empties the file. Samples of the file from `start` on are removed first. The header is
    updated after the samples, so a killed process leaves a valid file. Raises ValueError for NaN or infinity,
    if the file holds fewer than `start` samples, or if it would exceed LARGEST; the file is then unchanged.
    Raises OSError, with the file name, if the disk fails.
    """
    pcm = as_pcm(waveform).tobytes()
    end = start + len(waveform)
    if end > LARGEST:
        raise ValueError(f"{path} would hold {end:,} samples; a WAV file holds at most {LARGEST:,}.")
    try:
        with path.open("r+b" if start else "wb") as file:
            _truncate(file, path, start)
            file.write(pcm)
            file.flush()
            _write_header(file, end)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def stream_header() -> bytes:
    """Return the WAV header of a stream of unknown length."""
    return _header(UNKNOWN_SIZE)


def _truncate(file: BinaryIO, path: Path, samples: int) -> None:
    """End the file after `samples` samples, and move to its end."""
    end = HEADER.size + BYTES * samples
    if samples and file.seek(0, 2) < end:
        raise ValueError(
            f"{path} holds fewer than {samples:,} samples: it was changed since. Delete it and start again."
        )
    _write_header(file, samples)
    file.truncate(end)
    file.seek(end)


def _write_header(file: BinaryIO, samples: int) -> None:
    file.seek(0)
    file.write(_header(BYTES * samples))
    file.flush()


def _header(size: int) -> bytes:
    """Return the header of mono 16-bit PCM with `size` bytes of samples."""
    pcm, channels = 1, 1
    form = (b"RIFF", BEFORE_DATA + size, b"WAVE", b"fmt ", 16, pcm, channels)
    return HEADER.pack(*form, RATE, BYTES * RATE, BYTES, 8 * BYTES, b"data", size)


def _open_sound(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise FileNotFoundError(f"There is no audio file {path}. Check the name.")
    return soundfile.SoundFile(sound_source(path))


def _not_audio(path: Path, error: soundfile.SoundFileRuntimeError) -> ValueError:
    reason = getattr(error, "error_string", str(error)).rstrip(".")
    if reason.startswith("File does not exist"):  # libsndfile on a short MP3 file
        reason = "no sound was found in it"
    return ValueError(
        f"{path} cannot be read as audio ({reason}): it is damaged or not a WAV, FLAC, OGG, MP3, AIFF or "
        "Opus file. Replace or remove it."
    )


def _require_rate(rate: int, name: str) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(
            f"{name} has {rate:,} samples per second; rates from {LOWEST_RATE:,} to {HIGHEST_RATE:,} can be "
            "converted. Replace or remove it."
        )


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
