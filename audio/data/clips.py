"""Collections of clips: audio files with their split and class."""

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "valid", "test")
BOUNDARIES = (0.0, 0.88, 0.94, 1.0)
"""Boundaries of the splits of a folder, as fractions, from the published configuration for YouTubeMix."""
FEWEST_FILES = 9
"""Smallest number of files that fills every split of a folder."""
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
OTHER_SUFFIXES = (
    *(".m4a", ".aac", ".wma", ".mp4", ".amr", ".caf", ".au", ".snd", ".w64", ".oga", ".aifc", ".ape", ".wv"),
    *(".mka", ".webm", ".ra", ".ac3", ".3gp"),
)
"""Suffixes of audio files that are left out, with a warning."""
SPLIT_NAMES = (*SPLITS, "training", "val", "validation", "dev", "eval", "testing")
NO_LABEL = -1

log = logging.getLogger(__name__)


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
    """Return the audio files below a folder: 88% for training, 6% each for the others.

    With n files in natural order, validation has the files int(0.88 n) .. int(0.94 n) - 1, as in the
    published code. With fewer than 9 files a split would be empty; each file is then divided by the same
    fractions of its samples.

    If every file is in one of several subfolders, the names of the subfolders are the classes, and each class
    is split on its own; a class of three to eight files has one for validation and one for test. The order
    is that of the splits, then of the classes.

    Raises FileNotFoundError, and ValueError for a folder without audio.
    """
    folder = Path(folder)
    names = audio_files(folder)
    classes = _subfolder_classes(names)
    if not classes:
        return Collection(folder.resolve().name, folder, tuple(_split_files(names, FEWEST_FILES)))
    clips = [
        clip._replace(label=label)
        for label, name in enumerate(classes)
        for clip in _split_files([file for file in names if file.partition("/")[0] == name], len(SPLITS))
    ]
    clips.sort(key=lambda clip: SPLITS.index(clip.split))
    return Collection(f"{folder.resolve().name}-by-class", folder, tuple(clips), tuple(classes))


def _subfolder_classes(names: Sequence[str]) -> list[str]:
    """Return the names of the subfolders that hold all files; none if one file is elsewhere."""
    tops = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops), key=natural_key)
    if len(classes) < 2:
        return []
    if all(name.lower() in SPLIT_NAMES for name in classes):
        log.warning("The subfolders %s are no classes: they have the names of splits.", ", ".join(classes))
        return []
    if "" in classes:
        log.warning(
            "The subfolders are no classes: %s and %s other files are outside of them.",
            names[tops.index("")],
            f"{tops.count('') - 1:,}",
        )
        return []
    return classes


def _split_files(names: Sequence[str], fewest: int) -> list[Clip]:
    """Return the clips of files by split; with fewer files than `fewest`, parts of each file."""
    if len(names) < fewest:
        fractions = list(zip(SPLITS, BOUNDARIES, BOUNDARIES[1:], strict=False))
        return [Clip(name, split, begin=begin, end=end) for name in names for split, begin, end in fractions]
    count = len(names)
    bounds = [int(fraction * count) for fraction in BOUNDARIES]
    if count < FEWEST_FILES:
        bounds = [0, count - 2, count - 1, count]
    ranges = zip(SPLITS, bounds, bounds[1:], strict=False)
    return [Clip(name, split) for split, first, last in ranges for name in names[first:last]]


def audio_files(folder: Path) -> list[str]:
    """Return the names of the audio files below a folder in natural order.

    Links to folders are followed; each folder and each file counts once. Files that are hidden, in hidden
    folders, of a format that cannot be read, or further links to a file are left out, with a warning that
    counts them. Raises FileNotFoundError for a missing folder, ValueError for a folder without audio.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Choose the folder of the audio files.")
    names = sorted(_names_below(folder), key=natural_key)
    hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
    visible = [name for name in names if name not in set(hidden)]
    foreign = [name for name in visible if name.lower().endswith(OTHER_SUFFIXES)]
    readable = [name for name in visible if name not in set(foreign)]
    links = _repeated_links(folder, readable)
    _warn_left_out(folder, hidden, "hidden")
    _warn_left_out(folder, foreign, "of formats that cannot be read")
    _warn_left_out(folder, links, "links to other files of the folder")
    readable = [name for name in readable if name not in set(links)]
    if not readable:
        raise ValueError(f"{folder} holds no audio. Choose a folder with files of {', '.join(SUFFIXES)}.")
    return readable


def _names_below(folder: Path) -> Iterator[str]:
    """Yield the names of all audio files below a folder, hidden ones included; each folder once."""
    pending = deque([folder])  # links and hidden folders last: a file has the name in its real folder
    known = set()
    while pending:
        current = pending.popleft()
        status = current.stat()
        if (status.st_dev, status.st_ino) in known:
            continue
        known.add((status.st_dev, status.st_ino))
        folders = []
        for entry in sorted(os.scandir(current), key=lambda entry: entry.name):
            path = current / entry.name
            if entry.is_dir():
                folders.append((entry.is_symlink() or entry.name.startswith("."), path))
            elif path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES) and entry.is_file():
                yield path.relative_to(folder).as_posix()
        pending.extendleft(path for is_last, path in reversed(folders) if not is_last)
        pending.extend(path for is_last, path in folders if is_last)


def _repeated_links(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the links to files that have another name in the list."""
    links = {name: (folder / name).resolve() for name in names if (folder / name).is_symlink()}
    known = {(folder / name).resolve() for name in names if name not in links} if links else set()
    repeated = []
    for name, target in links.items():
        if target in known:
            repeated.append(name)
        known.add(target)
    return repeated


def _warn_left_out(folder: Path, names: Sequence[str], reason: str) -> None:
    if names:
        log.warning(
            "%s: %s audio file(s) left out, because they are %s; the first is %s.",
            folder,
            f"{len(names):,}",
            reason,
            names[0],
        )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts clip2 before clip10."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def count_splits(splits: Iterable[str]) -> dict[str, int]:
    """Return the number of occurrences of each of SPLITS."""
    count = Counter(splits)
    return {split: count[split] for split in SPLITS}
