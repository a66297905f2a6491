"""Augmentations of spoken words: speed, colour, place, noise and loudness, by chance that is counted."""

from functools import cache

import numpy as np
import numpy.typing as npt

from audio.data.mel import CLIP
from audio.data.waveform import FULL_SCALE, Waveform
from core.random import Integers, Words, random_uniform, random_words

CHANCE = 0.5
"""Of each augmentation, for each clip: one clip in 32 stays as it was."""
SLOWEST, FASTEST = 0.8, 1.25
LONGEST_SHIFT = CLIP // 10
STRONGEST_COLOUR = 0.7
QUIETEST, LOUDEST = 0.3, 1.5
LOUDEST_NOISE, QUIETEST_NOISE = 10.0, 40.0
"""Decibels between a clip's power and that of its noise."""
NOISE_SAMPLES = 1 << 20
NOISE_STREAM = 1
DRAWS = 16

Draws = npt.NDArray[np.floating]


def draws(seed: int, stream: int, counters: Integers) -> Draws:
    """What `augmented` needs of chance, (clips, DRAWS), for each of the counters (clips,)."""
    places = DRAWS * counters[:, None] + np.arange(DRAWS)
    return random_uniform(seed, stream, places.ravel()).reshape(places.shape)


def augmented(clip: Waveform, drawn: Draws) -> npt.NDArray[np.int16]:
    """A clip (samples,) with some of the augmentations, as 16-bit samples (CLIP,).

    drawn: (DRAWS,), numbers in [0, 1). Speed changes pitch and pace together; colour is what microphones
    differ in; noise is white or pink; the loudest clips are clipped at full scale.
    """
    speeds, shifts, colours, noises, scales = drawn[:5] < CHANCE
    if speeds:
        clip = at_speed(clip, SLOWEST * (FASTEST / SLOWEST) ** drawn[5])
    if colours:
        clip = coloured(clip, (2 * drawn[6] - 1) * STRONGEST_COLOUR)
    clip = placed(clip, int((2 * drawn[7] - 1) * LONGEST_SHIFT) if shifts else 0)
    if noises:
        ratio = LOUDEST_NOISE + (QUIETEST_NOISE - LOUDEST_NOISE) * drawn[8]
        clip = with_noise(clip, ratio, is_pink=bool(drawn[9] < 0.5), start=drawn[10])
    scale = 1.0
    if scales and (peak := np.abs(clip).max()):
        scale = (QUIETEST + (LOUDEST - QUIETEST) * drawn[11]) / peak
    return np.clip(clip * np.float32(scale * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def at_speed(clip: Waveform, speed: float) -> Waveform:
    """A clip (samples,) played faster (speed above 1) or slower: (samples / speed,), by straight lines."""
    places = np.arange(max(1, int(len(clip) / speed))) * speed
    return np.interp(places, np.arange(len(clip)), clip).astype(np.float32)


def coloured(clip: Waveform, colour: float) -> Waveform:
    """A clip (samples,) with its high tones raised (colour below 0, to -1) or damped (above 0, to 1)."""
    before = np.concatenate([np.zeros(1, np.float32), clip[:-1]])
    return (clip + colour * before).astype(np.float32)


def placed(clip: Waveform, shift: int) -> Waveform:
    """A clip (samples,) in a second of silence, (CLIP,), `shift` samples late, or early where negative."""
    second = np.zeros(CLIP, np.float32)
    kept = clip[max(0, -shift) :][: CLIP - max(0, shift)]
    second[max(0, shift) : max(0, shift) + len(kept)] = kept
    return second


def with_noise(clip: Waveform, ratio: float, is_pink: bool, start: float) -> Waveform:
    """A clip (samples,) under noise of `ratio` decibels less power, a stretch of one long noise.

    start: in [0, 1), which stretch.
    """
    noise = long_noise(is_pink)
    first = int(start * (NOISE_SAMPLES - len(clip)))
    scale = np.sqrt(float(np.dot(clip, clip)) / len(clip) / 10 ** (ratio / 10))
    return clip + np.float32(scale) * noise[first : first + len(clip)]


@cache
def long_noise(is_pink: bool) -> Waveform:
    """(NOISE_SAMPLES,) of white noise, or of pink noise (its power falls with the frequency), power 1."""
    words: Words = random_words(0, NOISE_STREAM, np.arange(NOISE_SAMPLES))
    halves = (words >> np.uint64(32), words & np.uint64(0xFFFFFFFF))
    first, second = (half.astype(np.float64) * 2.0**-32 + 2.0**-33 for half in halves)
    noise = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)  # Box and Muller 1958
    if is_pink:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), NOISE_SAMPLES)
    return (noise / noise.std()).astype(np.float32)
