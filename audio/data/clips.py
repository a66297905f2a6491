"""Clips: which audio files make a data set, in which split, of which class."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "valid", "test")
SUFFIXES = (".wav", ".flac", ".ogg")
NO_LABEL = -1


class Clip(NamedTuple):
    """An audio file, or the part of it between two fractions of its samples.

    name: its path below the folder of the collection, with "/". split: one of SPLITS. label: the index of its
    class, NO_LABEL without classes.
    """

    name: str
    split: str
    label: int = NO_LABEL
    begin: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Collection:
    """The clips of a data set, in a fixed order.

    name: what results call it, its version included. folder: where the files are. classes: what labels mean.
    """

    name: str
    folder: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many clips each split has."""
        return count_splits(clip.split for clip in self.clips)


def count_splits(splits: Iterable[str]) -> dict[str, int]:
    """How often each of SPLITS occurs."""
    count = Counter(splits)
    return {split: count[split] for split in SPLITS}


def audio_files(folder: Path) -> list[str]:
    """The names of the WAV, FLAC and OGG files below a folder, in natural order; hidden ones are not read.

    Raises FileNotFoundError where there is no such folder, ValueError where it has no audio.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: name the folder that holds the audio files.")
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not names:
        raise ValueError(f"{folder} holds no audio: name a folder with files of {', '.join(SUFFIXES)}.")
    return sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names as people do: clip2 before clip10."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], name
