"""Synthetic digits: short synthesized clips of ten classes, which need no download.

Each class is the sequence of speech sounds of its digit, from a source-filter synthesiser: a pulse train of
gliding pitch, or noise, filtered by moving formants (vowels: Peterson and Barney 1952).
Speakers differ in pitch, vocal tract, pace and breath; takes differ in timing, pitch, loudness and silence at
both ends. The clips serve tests and first steps. Results on them say nothing about recorded speech.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
from tqdm import tqdm

from audio.data.clips import Collection
from audio.data.digits import DIGITS, fsdd
from audio.data.waveform import RATE, Waveform, as_pcm
from core.random import random_uniform

Floats = npt.NDArray[np.floating]

SPEAKERS, TAKES = 6, 20
SPEAKER_STREAM, TAKE_STREAM, NOISE_STREAM = 1, 2, 3
FRAME, HOP = 512, 128
GLIDE = 0.012
HIGHEST_HARMONIC = 7000.0
FLOOR = 3e-4


class Sound(NamedTuple):
    """Speech sound: three formants (Hz), amplitudes of voice and noise, and length (seconds)."""

    formants: tuple[float, float, float]
    voice: float
    noise: float
    seconds: float


SOUNDS = {
    "IY": Sound((270, 2290, 3010), 1.0, 0.0, 0.16),
    "IH": Sound((390, 1990, 2550), 1.0, 0.0, 0.13),
    "EY": Sound((480, 2050, 2600), 1.0, 0.0, 0.22),
    "EH": Sound((530, 1840, 2480), 1.0, 0.0, 0.14),
    "AA": Sound((730, 1090, 2440), 1.0, 0.0, 0.15),
    "AO": Sound((570, 840, 2410), 1.0, 0.0, 0.18),
    "AH": Sound((640, 1190, 2390), 1.0, 0.0, 0.17),
    "OW": Sound((450, 800, 2400), 1.0, 0.0, 0.18),
    "UW": Sound((300, 870, 2240), 1.0, 0.0, 0.28),
    "W": Sound((290, 610, 2150), 0.7, 0.0, 0.09),
    "R": Sound((350, 1060, 1380), 0.7, 0.0, 0.10),
    "N": Sound((250, 1450, 2400), 0.4, 0.0, 0.12),
    "V": Sound((260, 1100, 2300), 0.3, 0.1, 0.08),
    "Z": Sound((260, 4500, 6000), 0.2, 0.3, 0.11),
    "S": Sound((3800, 5000, 6500), 0.0, 0.5, 0.14),
    "F": Sound((1500, 4000, 7000), 0.0, 0.2, 0.13),
    "TH": Sound((1400, 5000, 7200), 0.0, 0.15, 0.13),
    "T": Sound((2800, 4200, 6000), 0.0, 0.6, 0.04),
    "K": Sound((1600, 2600, 4500), 0.0, 0.6, 0.05),
    "-": Sound((500, 1500, 2500), 0.0, 0.0, 0.05),
}
WORDS = (
    "Z IH R OW",
    "W AH N",
    "T UW",
    "TH R IY",
    "F AO R",
    "F AA IY V",
    "S IH - K S",
    "S EH V EH N",
    "EY - T",
    "N AA IY N",
)
"""Sounds of zero to nine; a dash is the silence before a stop."""


def synthetic_digits(folder: str | Path, speakers: int = SPEAKERS, takes: int = TAKES) -> Collection:
    """Return synthetic clips with the names and split of FSDD; write them if the folder does not exist.

    takes: clips of each digit by each speaker. Raises ValueError for a folder with other content, and OSError
    if writing fails.
    """
    folder = Path(folder)
    note = folder / "README.txt"
    content = (
        f"Synthetic digits, version 1: {len(DIGITS)} digits, {speakers} speakers, {takes} takes of each.\n"
        "Made by audio/data/synthetic.py of Helixwave; nobody spoke them.\n"
    )
    if not folder.exists():
        _write(folder, content, speakers, takes)
    if not note.is_file() or note.read_text() != content:
        raise ValueError(
            f"{folder} holds something else than {content.splitlines()[0]} Choose another folder."
        )
    return replace(fsdd(folder), name="synthetic-digits")


def speak(digit: int, speaker: int, take: int) -> Waveform:
    """Return one clip (length,), 0.3 to 1 s at 16 kHz, which depends on the arguments alone."""
    clip = (speaker * len(DIGITS) + digit) * 2**20 + take
    pitch, tract, pace, breath = random_uniform(speaker, SPEAKER_STREAM, np.arange(4))
    timing, height, fall, loudness, before, after = random_uniform(clip, TAKE_STREAM, np.arange(6))

    sounds = [SOUNDS[name] for name in WORDS[digit].split()]
    lengths = np.array([sound.seconds for sound in sounds]) * (0.85 + 0.25 * pace) * (0.95 + 0.1 * timing)
    lead, tail = 0.05 + 0.03 * before, 0.05 + 0.03 * after
    samples = int((lead + lengths.sum() + tail) * RATE)
    frames = np.arange(samples // HOP + 1) * HOP / RATE
    ends = lead + np.cumsum(lengths)

    noise = 2 * random_uniform(clip, NOISE_STREAM, np.arange(samples)) - 1
    hertz = (95 + 120 * pitch) * (0.95 + 0.1 * height) * np.linspace(1.05, 0.8 + 0.1 * fall, samples)
    formants = _formant_tracks(sounds, ends - lengths / 2, frames) * (0.9 + 0.25 * tract)
    voiced = _filtered(_pulses(hertz), formants, 400.0)
    voiced += (0.02 + 0.1 * breath) * _filtered(noise, formants, 400.0)
    hissed = _filtered(noise, formants, 1e5)
    times = np.arange(samples) / RATE
    waveform = voiced / np.abs(voiced).max() * _envelope([s.voice for s in sounds], ends, lengths, times)
    waveform += hissed / np.abs(hissed).max() * _envelope([s.noise for s in sounds], ends, lengths, times)
    waveform *= (0.25 + 0.6 * loudness) / np.abs(waveform).max()
    return (waveform + FLOOR * noise).astype(np.float32)


def _pulses(hertz: Floats) -> Floats:
    """Return equal harmonics of a pitch (samples,) below HIGHEST_HARMONIC, by the Dirichlet kernel."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    harmonics = int(HIGHEST_HARMONIC / hertz.max())
    half = np.sin(phase / 2)
    return np.sin((harmonics + 0.5) * phase) / np.where(np.abs(half) < 1e-6, 1e-6, half) / 2 - 0.5


def _formant_tracks(sounds: Sequence[Sound], centres: Floats, frames: Floats) -> Floats:
    """Return formants (frames, 3) in Hz, linear between the centres of the sounds."""
    by_formant = np.array([sound.formants for sound in sounds]).T
    return np.stack([np.interp(frames, centres, hertz) for hertz in by_formant], axis=1)


def _envelope(amplitudes: Sequence[float], ends: Floats, lengths: Floats, times: Floats) -> Floats:
    """Return the amplitude (samples,), constant in each sound with linear transitions between sounds."""
    glide = np.minimum(GLIDE, lengths / 3)
    corners = np.stack([ends - lengths + glide, ends - glide], axis=1).ravel()
    corners = np.concatenate([[ends[0] - lengths[0]], corners, [ends[-1]]])
    return np.interp(times, corners, np.concatenate([[0], np.repeat(amplitudes, 2), [0]]))


def _filtered(source: Floats, formants: Floats, corner: float) -> Floats:
    """Filter a source (samples,) by resonances at formants (frames, 3), with a roll-off above `corner` Hz."""
    window = np.sqrt(np.hanning(FRAME + 1)[:-1])
    padded = np.pad(source, (FRAME // 2, FRAME + HOP))
    framed = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: len(formants)]
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    width = 60 + 0.05 * formants[..., None]
    resonances = np.array([1.0, 0.6, 0.35])[:, None] / (1 + ((hertz - formants[..., None]) / width) ** 2)
    response = (resonances.sum(axis=1) + 0.01) / (1 + (hertz / corner) ** 1.5)
    pieces = window * np.fft.irfft(np.fft.rfft(window * framed) * response)
    out = np.zeros(len(padded))
    for frame, piece in enumerate(pieces):
        out[frame * HOP : frame * HOP + FRAME] += piece
    return out[FRAME // 2 : FRAME // 2 + len(source)]


def _write(folder: Path, note: str, speakers: int, takes: int) -> None:
    """Write all clips and the note; the folder appears when it is complete."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for digit in tqdm(range(len(DIGITS)), desc="speaking digits", disable=None):
            for speaker in range(speakers):
                for take in range(takes):
                    clip = as_pcm(speak(digit, speaker, take))
                    soundfile.write(part / f"{digit}_speaker{speaker}_{take}.wav", clip, RATE)
        (part / "README.txt").write_text(note)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
