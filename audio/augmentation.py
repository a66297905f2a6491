"""Augmentations of spoken words: speed, place, noise, loudness, each a function of a seed and a counter."""

from functools import cache

import numpy as np

from audio.mel import CLIP
from audio.waveform import FULL_SCALE, Waveform
from core.counter import Words, random_uniform, random_words

CHANCE = 0.5
"""Of each augmentation, for each clip: half of the clips stay as they were."""
SLOWEST, FASTEST = 0.8, 1.25
LONGEST_SHIFT = CLIP // 10
QUIETEST, LOUDEST = 0.3, 1.5
LOUDEST_NOISE, QUIETEST_NOISE = 10.0, 40.0
"""Decibels between a clip's power and that of its noise."""
NOISE_SAMPLES = 1 << 20
NOISE_STREAM = 1


def augmented(clip: Waveform, seed: int, stream: int, counter: int) -> Waveform:
    """A clip (samples,) with some of the augmentations, (CLIP,): the same for the same three numbers.

    Speed changes pitch and pace together. Noise is white or pink. The loudest are clipped at full scale.
    """
    drawn = random_uniform(seed, stream, 16 * counter + np.arange(11))
    happens = drawn[:4] < CHANCE
    if happens[0]:
        clip = at_speed(clip, SLOWEST * (FASTEST / SLOWEST) ** drawn[4])
    clip = placed(clip, int((2 * drawn[5] - 1) * LONGEST_SHIFT) if happens[1] else 0)
    if happens[2]:
        ratio = LOUDEST_NOISE + (QUIETEST_NOISE - LOUDEST_NOISE) * drawn[6]
        clip = with_noise(clip, ratio, is_pink=bool(drawn[7] < 0.5), start=drawn[8])
    if happens[3]:
        peak = np.abs(clip).max()
        clip = clip * ((QUIETEST + (LOUDEST - QUIETEST) * drawn[9]) / peak if peak else 1.0)
    return np.clip(clip, -1.0, 1.0 - 1.0 / FULL_SCALE).astype(np.float32)


def at_speed(clip: Waveform, speed: float) -> Waveform:
    """A clip (samples,) played faster (speed above 1) or slower: (samples / speed,), by straight lines."""
    places = np.arange(max(1, int(len(clip) / speed))) * speed
    return np.interp(places, np.arange(len(clip)), clip).astype(np.float32)


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
    scale = np.sqrt(np.square(clip, dtype=np.float64).mean() / 10 ** (ratio / 10))
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
