"""Collections of clips: audio files with their split and class."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "valid", "test")
BOUNDARIES = (0.0, 0.88, 0.94, 1.0)
"""Boundaries of the splits of a folder, as fractions, from the published configuration for YouTubeMix."""
SUFFIXES = (".wav", ".flac", ".ogg")
NO_LABEL = -1


class Clip(NamedTuple):
    """Audio file, or the part of it between two fractions of its samples.

    name: path relative to the folder of the collection, with "/". split: one of SPLITS. label: index of the
    class; NO_LABEL in a collection without classes.
    """

    name: str
    split: str
    label: int = NO_LABEL
    begin: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Collection:
    """Clips of a data set, in a fixed order.

    name: name in results, version included. folder: folder of the files. classes: class names by label.
    """

    name: str
    folder: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips in each split."""
        return count_splits(clip.split for clip in self.clips)


def audio_folder(folder: str | Path) -> Collection:
    """Return the audio files below a folder, without classes: 88% for training, 6% each for the others.

    With n files in natural order, validation has the files int(0.88 n) .. int(0.94 n) - 1, as in the
    published code. With fewer than 9 files a split would be empty; each file is then divided by the same
    fractions of its samples. Raises FileNotFoundError, and ValueError for a folder without audio.
    """
    folder = Path(folder)
    names = audio_files(folder)
    bounds = [int(fraction * len(names)) for fraction in BOUNDARIES]
    ranges = list(zip(SPLITS, bounds, bounds[1:], strict=False))
    if all(first < last for _, first, last in ranges):
        clips = [Clip(name, split) for split, first, last in ranges for name in names[first:last]]
    else:
        fractions = list(zip(SPLITS, BOUNDARIES, BOUNDARIES[1:], strict=False))
        clips = [Clip(name, split, begin=begin, end=end) for name in names for split, begin, end in fractions]
    return Collection(folder.resolve().name, folder, tuple(clips))


def audio_files(folder: Path) -> list[str]:
    """Return the names of the WAV, FLAC and OGG files below a folder in natural order, without hidden files.

    Raises FileNotFoundError for a missing folder, ValueError for a folder without audio.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Choose the folder of the audio files.")
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not names:
        raise ValueError(f"{folder} holds no audio. Choose a folder with files of {', '.join(SUFFIXES)}.")
    return sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts clip2 before clip10."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def count_splits(splits: Iterable[str]) -> dict[str, int]:
    """Return the number of occurrences of each of SPLITS."""
    count = Counter(splits)
    return {split: count[split] for split in SPLITS}
