"""Any folder of WAV, FLAC and OGG files, long recordings above all (YouTubeMix: 241 clips of a minute)."""

from pathlib import Path

from audio.data.clips import SPLITS, Clip, Collection, audio_files

BOUNDARIES = (0.0, 0.88, 0.94, 1.0)
"""Of training, validation and test, as fractions, as in the published configuration for YouTubeMix."""


def audio_folder(folder: str | Path) -> Collection:
    """The audio files below a folder, in natural order, without classes: 88, 6 and 6 per cent of them.

    A split takes files int(0.88 n) .. int(0.94 n) - 1 of n and so on, as the published code does. Where that
    leaves a split empty (fewer than 9 files) each file is split in itself, by the same fractions of its
    samples. Raises FileNotFoundError, and ValueError for a folder without audio.
    """
    folder = Path(folder)
    names = audio_files(folder)
    bounds = [int(fraction * len(names)) for fraction in BOUNDARIES]
    parts = list(zip(SPLITS, bounds, bounds[1:], strict=False))
    if all(first < last for _, first, last in parts):
        clips = [Clip(name, split) for split, first, last in parts for name in names[first:last]]
    else:
        fractions = list(zip(SPLITS, BOUNDARIES, BOUNDARIES[1:], strict=False))
        clips = [Clip(name, split, begin=begin, end=end) for name in names for split, begin, end in fractions]
    return Collection(folder.resolve().name, folder, tuple(clips))
