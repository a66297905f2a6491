"""Audio files for the tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from audio.data.waveform import RATE, Waveform

# A busy machine makes an example slow, which says nothing of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def one_thread() -> Iterable[None]:
    """Two threads spend most of such small work waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tone(samples: int, hertz: float = 440.0, rate: int = RATE, peak: float = 0.5) -> Waveform:
    """A sine wave (samples,)."""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def noise(samples: int, seed: int = 0, peak: float = 0.5) -> Waveform:
    """White noise (samples,), which 16 bits hold exactly."""
    codes = np.random.default_rng(seed).integers(-(2**15), 2**15, samples)
    return (np.rint(codes * peak) / 2**15).astype(np.float32)


def write_clips(folder: Path, names: Iterable[str], samples: int = 50) -> Path:
    """Write a short file of noise, of a length and a content of its own, under every name."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(samples + seed, seed), RATE)
    return folder
