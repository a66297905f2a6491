"""Waveforms that are written while they come into being: 16-bit WAV, valid after every piece.

The header says how many samples a file holds, and is written anew behind each piece. A process that is killed
in between leaves a valid file of the samples that the header counts.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from audio.data.waveform import RATE, UNKNOWN_SIZE, Waveform, as_pcm

BYTES = 2
HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
BEFORE_DATA = HEADER.size - 8
LARGEST = ((1 << 32) - 1 - BEFORE_DATA) // BYTES
"""Samples (37 hours) that the 32 bits of a WAV file's sizes can count."""


def write_samples(path: Path, start: int, waveform: Waveform) -> None:
    """Let a WAV file at 16 kHz hold samples (length,) from sample `start` on, and end with them.

    start=0 makes the file, or empties it. What the file held from `start` on is cut off first.
    Raises ValueError for samples that are not finite, and where the file holds less than `start` samples or
    would hold more than LARGEST; it stays as it was then. OSError, with the file's name, if the disk fails.
    """
    pcm = as_pcm(waveform).tobytes()
    end = start + len(waveform)
    if end > LARGEST:
        raise ValueError(f"{path} would hold {end:,} samples; a WAV file holds at most {LARGEST:,}.")
    try:
        with path.open("r+b" if start else "wb") as file:
            _cut(file, path, start)
            file.write(pcm)
            file.flush()
            _write_header(file, end)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def piped_header() -> bytes:
    """What a WAV file begins with whose samples follow through a pipe, as many as come."""
    return _header(UNKNOWN_SIZE)


def _cut(file: BinaryIO, path: Path, samples: int) -> None:
    """Let the file end behind so many samples, and stand there."""
    end = HEADER.size + BYTES * samples
    if samples and file.seek(0, 2) < end:
        raise ValueError(
            f"{path} holds less than the {samples:,} samples that come before these: it has been changed."
        )
    _write_header(file, samples)
    file.truncate(end)
    file.seek(end)


def _write_header(file: BinaryIO, samples: int) -> None:
    file.seek(0)
    file.write(_header(BYTES * samples))
    file.flush()


def _header(size: int) -> bytes:
    """Of mono 16-bit PCM with `size` bytes of samples."""
    pcm, channels = 1, 1
    form = (b"RIFF", BEFORE_DATA + size, b"WAVE", b"fmt ", 16, pcm, channels)
    return HEADER.pack(*form, RATE, BYTES * RATE, BYTES, 8 * BYTES, b"data", size)
