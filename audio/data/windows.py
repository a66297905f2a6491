"""Windows: which stretch of the codes is example number k."""

from dataclasses import dataclass

import numpy as np

from audio.data.pack import PackedAudio
from core.random import Integers


@dataclass(frozen=True)
class Windows:
    """Stretches of packed codes: starts, lengths and labels, each (windows,)."""

    starts: Integers
    lengths: Integers
    labels: Integers

    def __len__(self) -> int:
        return len(self.starts)


def clip_windows(audio: PackedAudio, split: str, length: int) -> Windows:
    """The clips of a split; those longer than `length` samples are cut into pieces, the last one shorter.

    As the published data loader cuts SC09. Raises ValueError for a length below 1 and a split without clips.
    """
    return _windows(audio, split, length, keep_rest=True)


def whole_windows(audio: PackedAudio, split: str, length: int) -> Windows:
    """Windows of exactly `length` samples that tile each clip of a split; a shorter rest is left out.

    As the published data loader cuts YouTubeMix. Raises ValueError as clip_windows does, and where no clip is
    long enough.
    """
    return _windows(audio, split, length, keep_rest=False)


def _windows(audio: PackedAudio, split: str, length: int, keep_rest: bool) -> Windows:
    if length < 1:
        raise ValueError(f"The length of a window is {length}; it must be at least 1 sample.")
    clips = [clip for clip in audio.clips if clip.split == split]
    if not clips:
        held = ", ".join(f"{count:,} for {name}" for name, count in audio.counts.items())
        raise ValueError(f"{audio.name} has no clips for {split}, but {held}: name a larger data set.")
    starts, sizes, labels = np.array([(clip.start, clip.length, clip.label) for clip in clips], np.int64).T
    count = -(-sizes // length) if keep_rest else sizes // length
    if not count.any():
        longest = clips[int(sizes.argmax())]
        raise ValueError(
            f"No window of {length:,} samples fits into the {split} clips of {audio.name}: the longest, "
            f"{longest.name}, has {longest.length:,}. Choose a shorter length."
        )
    clip = np.repeat(np.arange(len(clips)), count)
    offset = (np.arange(len(clip)) - (np.cumsum(count) - count)[clip]) * length
    return Windows(starts[clip] + offset, np.minimum(sizes[clip] - offset, length), labels[clip])
