"""Windows: ranges of packed codes that serve as examples."""

from dataclasses import dataclass, fields

import numpy as np

from audio.data.pack import PackedAudio
from core.random import Integers
from core.statistics import evenly_spaced_subset


@dataclass(frozen=True)
class Windows:
    """Ranges of packed codes: starts, lengths and labels, each (windows,)."""

    starts: Integers
    lengths: Integers
    labels: Integers

    def __len__(self) -> int:
        return len(self.starts)


def clip_windows(audio: PackedAudio, split: str, length: int) -> Windows:
    """Return the clips of a split, divided into windows of `length` samples; the last one may be shorter.

    The published data loader treats SC09 so. Raises ValueError for a length below 1 and a split without
    clips.
    """
    return _windows(audio, split, length, keep_rest=True)


def whole_windows(audio: PackedAudio, split: str, length: int) -> Windows:
    """Return the windows of exactly `length` samples that tile each clip of a split.

    A shorter rest is dropped. The published data loader treats YouTubeMix so. Raises ValueError as
    clip_windows does, and if no clip is long enough.
    """
    return _windows(audio, split, length, keep_rest=False)


def evenly_spaced(windows: Windows, count: int | None) -> Windows:
    """Return at most `count` evenly spaced windows, or all for None. Raises ValueError for a count of 0."""
    index = evenly_spaced_subset(len(windows), count)
    return Windows(*(getattr(windows, field.name)[index] for field in fields(windows)))


def _windows(audio: PackedAudio, split: str, length: int, keep_rest: bool) -> Windows:
    if length < 1:
        raise ValueError(f"The length of a window is {length}; it must be at least 1 sample.")
    clips = [clip for clip in audio.clips if clip.split == split]
    if not clips:
        counts = ", ".join(f"{count:,} for {name}" for name, count in audio.counts.items())
        raise ValueError(f"{audio.name} has no clips for {split}, but {counts}. Choose a larger data set.")
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
