"""Augmentations depend on their counter alone and have the documented effects."""

import numpy as np
import pytest

from audio.data.augmentation import (
    LONGEST_SHIFT,
    add_noise,
    augment,
    change_colour,
    change_speed,
    long_noise,
    random_numbers,
    shift_into_second,
)
from audio.data.mel import CLIP
from audio.data.waveform import FULL_SCALE, Waveform
from tests.audio.conftest import noise, tone


def one(clip: Waveform, counter: int, seed: int = 0, stream: int = 1) -> np.ndarray:
    return augment(clip, random_numbers(seed, stream, np.array([counter]))[0])


def test_a_clip_s_augmentation_depends_on_the_counter_alone() -> None:
    clip = noise(5000)
    many = random_numbers(3, 2, np.arange(20))
    assert np.array_equal(one(clip, 7, 3, 2), augment(clip, many[7]))
    others = [one(clip, 8, 3, 2), one(clip, 7, 4, 2), one(clip, 7, 3, 1)]
    assert sum(np.array_equal(one(clip, 7, 3, 2), other) for other in others) < 2


def test_augmented_clips_are_seconds_of_sound() -> None:
    for counter in range(40):
        for clip in (noise(1), noise(3000), noise(2 * CLIP), np.zeros(50, np.float32)):
            second = one(clip, counter)
            assert (second.shape, second.dtype) == ((CLIP,), np.int16)
            if len(clip) > LONGEST_SHIFT:
                assert second.any()


def test_some_clips_stay_as_they_were() -> None:
    clip = noise(4000)
    same = [np.array_equal(one(clip, counter)[:4000], clip * FULL_SCALE) for counter in range(400)]
    assert 0.01 < np.mean(same) < 0.06  # none of five augmentations, each of chance a half: 1 in 32


@pytest.mark.parametrize("colour", [-0.7, 0.7])
def test_colour_tilts_the_spectrum(colour: float) -> None:
    before, after = (np.abs(np.fft.rfft(clip)) for clip in (noise(8000), change_colour(noise(8000), colour)))
    low, high = after[10:400].sum() / before[10:400].sum(), after[-400:].sum() / before[-400:].sum()
    assert low == pytest.approx(1 + colour, abs=0.05)
    assert high == pytest.approx(1 - colour, abs=0.05)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    faster = change_speed(tone(8000, 500), speed)
    assert len(faster) == int(8000 / speed)
    spectrum = np.abs(np.fft.rfft(faster))
    assert spectrum.argmax() * 16_000 / len(faster) == pytest.approx(500 * speed, rel=0.01)


@pytest.mark.parametrize("shift", [0, 700, -700, LONGEST_SHIFT])
def test_a_clip_is_placed(shift: int) -> None:
    second = shift_into_second(noise(1000), shift)
    kept = noise(1000)[max(0, -shift) :]
    assert np.array_equal(second[max(0, shift) :][: len(kept)], kept)
    assert np.abs(second).sum() == pytest.approx(np.abs(kept).sum(), rel=1e-6)


def test_what_is_placed_beyond_the_second_is_cut() -> None:
    assert np.array_equal(shift_into_second(noise(CLIP), 500)[500:], noise(CLIP)[:-500])


@pytest.mark.parametrize("is_pink", [False, True])
def test_noise_has_the_power_that_is_asked_for(is_pink: bool) -> None:
    clip = tone(CLIP)
    added = add_noise(clip, 20.0, is_pink, 0.3) - clip
    assert np.square(clip).mean() / np.square(added).mean() == pytest.approx(100, rel=0.6 if is_pink else 0.1)


def test_pink_noise_falls_and_white_does_not() -> None:
    for is_pink, expected in ((False, 1.0), (True, 8.0)):
        power = np.square(np.abs(np.fft.rfft(long_noise(is_pink))))
        low, high = power[20_000:40_000].mean(), power[160_000:320_000].mean()
        assert low / high == pytest.approx(expected, rel=0.05)
