"""Log-mel spectrograms: independent of loudness, on Slaney's scale, one second long."""

import numpy as np
import pytest
import torch

from audio.data.mel import CLIP, FRAMES, MELS, RANGE, centred, log_mel, one_second
from tests.audio.conftest import noise, tone


def spectrogram(waveform: np.ndarray) -> torch.Tensor:
    return log_mel(torch.from_numpy(waveform)[None])[0]


def test_loudness_has_no_influence() -> None:
    loud, quiet = spectrogram(noise(CLIP)), spectrogram(noise(CLIP) * np.float32(0.01))
    assert loud.shape == (MELS, FRAMES)
    torch.testing.assert_close(loud, quiet, atol=1e-3, rtol=0)


def test_the_loudest_value_is_zero_and_nothing_is_below_the_range() -> None:
    picture = spectrogram(tone(CLIP))
    assert picture.max() == 0
    assert picture.min() == -RANGE


def test_silence_is_finite() -> None:
    assert torch.equal(spectrogram(np.zeros(CLIP, np.float32)), torch.zeros(MELS, FRAMES))


def test_a_higher_tone_is_in_a_higher_band() -> None:
    bands = [int(spectrogram(tone(CLIP, hertz)).mean(dim=1).argmax()) for hertz in (200, 800, 3000, 7000)]
    assert bands == sorted(set(bands))


def test_bands_are_those_of_slaney_s_scale() -> None:
    """A tone in the middle of a band is loudest there; the scale is linear below 1 kHz, logarithmic above."""
    mels = np.linspace(0, 15 + np.log(8) / (np.log(6.4) / 27), MELS + 2)
    middles = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))[1:-1]
    for band in (5, 12, 20, 28):
        assert int(spectrogram(tone(CLIP, middles[band])).mean(dim=1).argmax()) == band


def test_a_second_is_cut_or_padded_and_has_no_mean() -> None:
    short, long = torch.from_numpy(noise(300)) + 0.2, torch.from_numpy(noise(CLIP + 300)) + 0.2
    for clip in (short, long, short[:1]):
        second = one_second(clip)
        assert second.shape == (CLIP,)
        assert abs(float(second.double().mean())) < 1e-6
    assert not one_second(short)[300:].any()
    torch.testing.assert_close(one_second(long), long[:CLIP] - long[:CLIP].mean())


@pytest.mark.parametrize(
    ("waveform", "message"),
    [([], "no samples"), ([0.0, float("nan")], "NaN"), ([float("inf")], "infinity")],
)
def test_invalid_clips_are_rejected(waveform: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        centred(torch.tensor(waveform))
