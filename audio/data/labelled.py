"""Clips with their classes: what a classifier is trained and tested on."""

import numpy as np
import torch
from torch import Tensor

from audio.data.augmentation import augmented, draws
from audio.data.mel import CLIP, one_second
from audio.data.pack import PackedAudio, PackedClip
from audio.data.quantizer import levels
from audio.data.waveform import Waveform
from core.random import shuffled

ORDER_STREAM, AUGMENTATION_STREAM = 1, 2


class LabelledClips:
    """The clips of one split of packed audio, and their classes `labels` (clips,) int64.

    Raises ValueError for audio without classes, or without clips in the split.
    """

    def __init__(self, audio: PackedAudio, split: str) -> None:
        self.audio = audio
        self.clips: list[PackedClip] = [clip for clip in audio.clips if clip.split == split]
        if not audio.classes:
            raise ValueError(f"{audio.name} has no classes, so that nothing can be classified: name digits.")
        if not self.clips:
            raise ValueError(f"{audio.name} has no clips for {split}: name a larger data set.")

        self._levels: Waveform = levels(audio.quantizer, torch.device("cpu")).numpy()
        self.labels = torch.tensor([clip.label for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

    def waveform(self, number: int) -> Waveform:
        """Clip `number` as its quantizer gives it back, (samples,)."""
        start, length = self.clips[number].start, self.clips[number].length
        return self._levels[self.audio.codes[start : start + length]]

    def seconds(self, numbers: range) -> Tensor:
        """These clips (rows, CLIP) float32, each without its mean, cut or padded to a second."""
        return torch.stack([one_second(torch.from_numpy(self.waveform(number))) for number in numbers])


class ClassifierBatches:
    """Augmented training clips in shuffled epochs: batches(step, rows), as core.training asks for them.

    Inputs are 16-bit samples (rows, CLIP), targets (rows, 1) int64.
    """

    def __init__(self, clips: LabelledClips, batch_size: int, seed: int) -> None:
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        counters = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        chosen = shuffled(counters, len(self.clips), self.seed, ORDER_STREAM)
        chance = draws(self.seed, AUGMENTATION_STREAM, counters)
        sounds = np.empty((len(chosen), CLIP), np.int16)
        for sound, number, drawn in zip(sounds, chosen.tolist(), chance, strict=True):
            clip = self.clips.waveform(number)[:CLIP]
            sound[:] = augmented(clip - clip.mean(), drawn)
        return torch.from_numpy(sounds), self.clips.labels[chosen][:, None]
