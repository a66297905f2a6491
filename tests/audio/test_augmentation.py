"""Augmentations are functions of their counter, and do what they say."""

import numpy as np
import pytest

from audio.augmentation import LONGEST_SHIFT, at_speed, augmented, long_noise, placed, with_noise
from audio.mel import CLIP
from tests.audio.conftest import noise, tone


def test_a_clip_s_augmentation_depends_on_the_counter_alone() -> None:
    clip = noise(5000)
    first = augmented(clip, 3, 2, 7)
    augmented(clip, 3, 2, 8)
    assert np.array_equal(first, augmented(clip, 3, 2, 7))
    others = [augmented(clip, *numbers) for numbers in ((3, 2, 8), (4, 2, 7), (3, 1, 7))]
    assert sum(np.array_equal(first, other) for other in others) < 2


def test_augmented_clips_are_seconds_of_sound() -> None:
    for counter in range(40):
        for clip in (noise(1), noise(3000), noise(2 * CLIP), np.zeros(50, np.float32)):
            second = augmented(clip, 0, 1, counter)
            assert second.shape == (CLIP,)
            assert second.dtype == np.float32
            assert np.abs(second).max() <= 1


def test_some_clips_stay_as_they_were() -> None:
    clip = noise(4000)
    same = [np.array_equal(augmented(clip, 0, 1, counter)[:4000], clip) for counter in range(200)]
    assert 0.02 < np.mean(same) < 0.15  # none of four augmentations, each of chance a half: 1 in 16


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    faster = at_speed(tone(8000, 500), speed)
    assert len(faster) == int(8000 / speed)
    spectrum = np.abs(np.fft.rfft(faster))
    assert spectrum.argmax() * 16_000 / len(faster) == pytest.approx(500 * speed, rel=0.01)


@pytest.mark.parametrize("shift", [0, 700, -700, LONGEST_SHIFT])
def test_a_clip_is_placed(shift: int) -> None:
    second = placed(noise(1000), shift)
    kept = noise(1000)[max(0, -shift) :]
    assert np.array_equal(second[max(0, shift) :][: len(kept)], kept)
    assert np.abs(second).sum() == pytest.approx(np.abs(kept).sum(), rel=1e-6)


def test_what_is_placed_beyond_the_second_is_cut() -> None:
    assert np.array_equal(placed(noise(CLIP), 500)[500:], noise(CLIP)[:-500])


@pytest.mark.parametrize("is_pink", [False, True])
def test_noise_has_the_power_that_is_asked_for(is_pink: bool) -> None:
    clip = tone(CLIP)
    added = with_noise(clip, 20.0, is_pink, 0.3) - clip
    assert np.square(clip).mean() / np.square(added).mean() == pytest.approx(100, rel=0.6 if is_pink else 0.1)


def test_pink_noise_falls_and_white_does_not() -> None:
    for is_pink, expected in ((False, 1.0), (True, 8.0)):
        power = np.square(np.abs(np.fft.rfft(long_noise(is_pink))))
        low, high = power[20_000:40_000].mean(), power[160_000:320_000].mean()
        assert low / high == pytest.approx(expected, rel=0.05)
