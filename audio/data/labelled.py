"""Clips with their classes, for training and testing a classifier."""

import numpy as np
import torch
from torch import Tensor

from audio.data.augmentation import augment, random_numbers
from audio.data.mel import CLIP, one_second
from audio.data.pack import PackedAudio, PackedClip
from audio.data.quantizer import levels
from audio.data.waveform import Waveform
from core.random import shuffled

ORDER_STREAM, AUGMENTATION_STREAM = 1, 2


class LabelledClips:
    """Clips of one split of packed audio, with their classes `labels` (clips,) int64.

    Raises ValueError for audio without classes or without clips in the split.
    """

    def __init__(self, audio: PackedAudio, split: str) -> None:
        self.audio = audio
        self.clips: list[PackedClip] = [clip for clip in audio.clips if clip.split == split]
        if not audio.classes:
            raise ValueError(f"{audio.name} has no classes to predict. Choose a data set of digits.")
        if not self.clips:
            raise ValueError(f"{audio.name} has no clips for {split}. Choose a larger data set.")

        self._levels: Waveform = levels(audio.quantizer, torch.device("cpu")).numpy()
        self.labels = torch.tensor([clip.label for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

    def waveform(self, number: int) -> Waveform:
        """Return the decoded waveform (samples,) of clip `number`."""
        start, length = self.clips[number].start, self.clips[number].length
        return self._levels[self.audio.codes[start : start + length]]

    def seconds(self, numbers: range) -> Tensor:
        """Return these clips (rows, CLIP) float32 without their means, cut or padded to one second."""
        return torch.stack([one_second(torch.from_numpy(self.waveform(number))) for number in numbers])


class ClassifierBatches:
    """Augmented training clips in shuffled epochs.

    batches(step, rows) returns these rows of the global batch: inputs are 16-bit samples (rows, CLIP),
    targets (rows, 1) int64.
    """

    def __init__(self, clips: LabelledClips, batch_size: int, seed: int) -> None:
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        counters = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        index = shuffled(counters, len(self.clips), self.seed, ORDER_STREAM)
        uniform = random_numbers(self.seed, AUGMENTATION_STREAM, counters)
        sounds = np.empty((len(index), CLIP), np.int16)
        for sound, number, numbers in zip(sounds, index.tolist(), uniform, strict=True):
            clip = self.clips.waveform(number)[:CLIP]
            sound[:] = augment(clip - clip.mean(), numbers)
        return torch.from_numpy(sounds), self.clips.labels[index][:, None]
