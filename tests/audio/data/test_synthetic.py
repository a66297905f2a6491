"""Synthetic digits are reproducible, have realistic lengths, and are separable by class."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import MelSpectrogram

from audio.data import synthetic
from audio.data.digits import DIGITS
from audio.data.pack import open_audio
from audio.data.synthetic import speak, synthetic_digits
from audio.data.waveform import RATE, read_waveform


def test_a_clip_is_a_function_of_digit_speaker_and_take() -> None:
    first = speak(3, 1, 2)
    speak(4, 0, 0)
    assert np.array_equal(first, speak(3, 1, 2))
    for other in (speak(4, 1, 2), speak(3, 2, 2), speak(3, 1, 3)):
        assert len(other) != len(first) or np.abs(other - first).max() > 0.05


def test_clips_do_not_change_between_releases() -> None:
    clip = speak(7, 2, 5)
    assert len(clip) == 11_974
    assert clip[[1500, 4000, 6000, 8000]] == pytest.approx(
        [0.0384510, -0.0126775, 0.0083183, -0.0062729], abs=1e-4
    )


@pytest.mark.parametrize("digit", range(10))
def test_clips_last_a_third_to_one_second_at_a_speaking_level(digit: int) -> None:
    for speaker in range(6):
        clip = speak(digit, speaker, 0)
        assert clip.dtype == np.float32
        assert 0.3 * RATE < len(clip) < RATE
        assert 0.2 < np.abs(clip).max() < 0.9
        assert 0 < np.abs(clip[: RATE // 40]).max() < 1e-3  # quiet, but not digital silence
        assert abs(clip.mean()) < 0.02


def test_classes_are_separable_for_unseen_speakers() -> None:
    mel = MelSpectrogram(RATE, n_fft=512, n_mels=32)

    def features(digit: int, speaker: int, take: int) -> torch.Tensor:
        """Return eight log-mel spectra of a clip, independent of its loudness."""
        spectrogram = (mel(torch.from_numpy(speak(digit, speaker, take))) + 1e-6).log()
        spectra = torch.nn.functional.interpolate(spectrogram[None], 8)[0]
        return (spectra - spectra.mean()).flatten()

    centres = torch.stack(
        [torch.stack([features(d, s, t) for s in range(4) for t in range(3)]).mean(0) for d in range(10)]
    )
    is_correct = [
        int((features(digit, speaker, take) - centres).square().sum(1).argmin()) == digit
        for digit in range(10)
        for speaker in (4, 5)
        for take in range(3)
    ]
    assert sum(is_correct) / len(is_correct) > 0.85


def test_the_folder_is_a_data_set_with_every_split(tmp_path: Path) -> None:
    collection = synthetic_digits(tmp_path / "data" / "digits", speakers=1, takes=11)
    assert (collection.name, collection.classes) == ("synthetic-digits", DIGITS)
    assert collection.counts == {"train": 10, "valid": 50, "test": 50}
    clip = read_waveform(collection.folder / "6_speaker0_10.wav")
    np.testing.assert_allclose(clip, speak(6, 0, 10), atol=2**-16 + 1e-7)
    assert "nobody spoke them" in (collection.folder / "README.txt").read_text()
    assert open_audio(collection).counts == collection.counts


def test_a_folder_is_written_once_and_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = synthetic_digits(tmp_path / "digits", speakers=1, takes=1)
    monkeypatch.setattr(synthetic, "_write", lambda *_: pytest.fail("written again"))
    assert synthetic_digits(str(tmp_path / "digits"), speakers=1, takes=1) == first
    with pytest.raises(
        ValueError, match=r"digits holds something else than .* 2 takes of each\. Choose another"
    ):
        synthetic_digits(tmp_path / "digits", speakers=1, takes=2)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"mine holds something else"):
        synthetic_digits(tmp_path / "mine", speakers=1, takes=1)


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, *_: object) -> None:
        if path.name.startswith("5"):
            raise KeyboardInterrupt
        path.write_bytes(b"some")

    (tmp_path / "digits.part").mkdir()
    (tmp_path / "digits.part" / "left_by_a_killed_run.wav").touch()
    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "write", write)
        with pytest.raises(KeyboardInterrupt):
            synthetic_digits(tmp_path / "digits", speakers=1, takes=1)
    assert not list(tmp_path.iterdir())
    assert len(synthetic_digits(tmp_path / "digits", speakers=1, takes=1).clips) == 10
