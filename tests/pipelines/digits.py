"""Spoken digits and small models of them, for the tests of what judges audio."""

from collections.abc import Iterable
from pathlib import Path

from audio.data.synthetic import speak
from audio.data.waveform import write_waveform

TINY_CLASSIFIER = [
    "data.source=fsdd",
    "model.width=8",
    "model.blocks=1",
    "train.steps=40",
    "train.batch_size=16",
    "train.learning_rate=1e-2",
    "train.validate_every=20",
    "train.checkpoint_every=20",
]
TINY_MODEL = [
    "data.source=fsdd",
    "model.unet.d_model=8",
    "model.unet.n_layer=1",
    "train.steps=2",
    "train.batch_size=2",
    "data.validation_windows=2",
]


def write_digits(folder: Path, takes: Iterable[int], speakers: Iterable[int] = (0,)) -> Path:
    """Synthetic digits under FSDD's names, and in its split: takes 0 to 4 test, 5 to 9 validation."""
    folder.mkdir()
    for take in takes:
        for speaker in speakers:
            for digit in range(10):
                write_waveform(folder / f"{digit}_speaker{speaker}_{take}.wav", speak(digit, speaker, take))
    return folder
