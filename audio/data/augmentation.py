"""Augmentations of spoken words: speed, tone colour, shift, noise and loudness, by random numbers."""

from functools import cache

import numpy as np
import numpy.typing as npt

from audio.data.mel import CLIP
from audio.data.waveform import FULL_SCALE, Waveform
from core.random import Integers, Words, random_uniform, random_words

CHANCE = 0.5
"""Probability of each augmentation of a clip; one clip in 32 stays unchanged."""
SLOWEST, FASTEST = 0.8, 1.25
LONGEST_SHIFT = CLIP // 10
STRONGEST_COLOUR = 0.7
QUIETEST, LOUDEST = 0.3, 1.5
LOUDEST_NOISE, QUIETEST_NOISE = 10.0, 40.0
"""Limits of the signal-to-noise ratio (dB)."""
NOISE_SAMPLES = 1 << 20
NOISE_STREAM = 1
NUMBERS = 16
"""Random numbers per clip."""

Numbers = npt.NDArray[np.floating]


def random_numbers(seed: int, stream: int, counters: Integers) -> Numbers:
    """Return the random numbers (clips, NUMBERS) of `augment` for the counters (clips,)."""
    indices = NUMBERS * counters[:, None] + np.arange(NUMBERS)
    return random_uniform(seed, stream, indices.ravel()).reshape(indices.shape)


def augment(clip: Waveform, numbers: Numbers) -> npt.NDArray[np.int16]:
    """Return a clip (samples,) with some of the augmentations, as 16-bit samples (CLIP,).

    numbers: (NUMBERS,), in [0, 1). Speed changes pitch and pace together. Tone colour imitates microphones.
    Noise is white or pink. The loudest clips are clipped at full scale.
    """
    has_speed, has_shift, has_colour, has_noise, has_scale = numbers[:5] < CHANCE
    if has_speed:
        clip = change_speed(clip, SLOWEST * (FASTEST / SLOWEST) ** numbers[5])
    if has_colour:
        clip = change_colour(clip, (2 * numbers[6] - 1) * STRONGEST_COLOUR)
    clip = shift_into_second(clip, int((2 * numbers[7] - 1) * LONGEST_SHIFT) if has_shift else 0)
    if has_noise:
        ratio = LOUDEST_NOISE + (QUIETEST_NOISE - LOUDEST_NOISE) * numbers[8]
        clip = add_noise(clip, ratio, is_pink=bool(numbers[9] < 0.5), start=numbers[10])
    scale = 1.0
    if has_scale and (peak := np.abs(clip).max()):
        scale = (QUIETEST + (LOUDEST - QUIETEST) * numbers[11]) / peak
    return np.clip(clip * np.float32(scale * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def change_speed(clip: Waveform, speed: float) -> Waveform:
    """Return a clip (samples,) at another speed, (samples / speed,), by linear interpolation."""
    positions = np.arange(max(1, int(len(clip) / speed))) * speed
    return np.interp(positions, np.arange(len(clip)), clip).astype(np.float32)


def change_colour(clip: Waveform, colour: float) -> Waveform:
    """Return a clip (samples,) with high frequencies raised (colour < 0) or damped; |colour| <= 1."""
    delayed = np.concatenate([np.zeros(1, np.float32), clip[:-1]])
    return (clip + colour * delayed).astype(np.float32)


def shift_into_second(clip: Waveform, shift: int) -> Waveform:
    """Return a clip in a second of silence, (CLIP,), `shift` samples later, or earlier if negative."""
    second = np.zeros(CLIP, np.float32)
    visible = clip[max(0, -shift) :][: CLIP - max(0, shift)]
    second[max(0, shift) : max(0, shift) + len(visible)] = visible
    return second


def add_noise(clip: Waveform, ratio: float, is_pink: bool, start: float) -> Waveform:
    """Return a clip (samples,) with noise at a signal-to-noise ratio of `ratio` dB.

    start: in [0, 1), the start of the segment of `long_noise`.
    """
    noise = long_noise(is_pink)
    first = int(start * (NOISE_SAMPLES - len(clip)))
    scale = np.sqrt(float(np.dot(clip, clip)) / len(clip) / 10 ** (ratio / 10))
    return clip + np.float32(scale) * noise[first : first + len(clip)]


@cache
def long_noise(is_pink: bool) -> Waveform:
    """Return (NOISE_SAMPLES,) of white noise, or of pink noise (power ~ 1 / frequency), with power 1."""
    words: Words = random_words(0, NOISE_STREAM, np.arange(NOISE_SAMPLES))
    halves = (words >> np.uint64(32), words & np.uint64(0xFFFFFFFF))
    first, second = (half.astype(np.float64) * 2.0**-32 + 2.0**-33 for half in halves)
    noise = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)  # Box and Muller 1958
    if is_pink:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), NOISE_SAMPLES)
    return (noise / noise.std()).astype(np.float32)
