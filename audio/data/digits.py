"""Spoken digits: Google Speech Commands (SC09) and the Free Spoken Digit Dataset (FSDD)."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from audio.data.clips import SPLITS, Clip, Collection, audio_files

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
SC09_COUNTS = {
    "v0.01": {"train": 18_620, "valid": 2_494, "test": 2_552},
    "v0.02": {"train": 31_158, "valid": 3_643, "test": 4_107},
}
"""Numbers of digit clips in the complete archives. Papers rarely state the version."""

FSDD_NAME = re.compile(r"(?:.*/)?([0-9])_([^/_]+)_([0-9]+)\.\w+")
FSDD_TEST = range(5)
FSDD_VALID = range(5, 10)

log = logging.getLogger(__name__)


def sc09(folder: str | Path) -> Collection:
    """Return the ten digits of an unpacked Speech Commands archive (Warden 2018), split by its lists.

    The sizes of the lists determine the version, which is part of the name. An incomplete archive is used
    with a warning. Raises FileNotFoundError for missing lists or folders of digits, ValueError if a clip is
    in both lists or a digit has no clips.
    """
    folder = Path(folder)
    splits = {split: _read_list(folder / file) for split, file in LISTS.items()}
    if both := sorted(splits["valid"] & splits["test"]):
        raise ValueError(f"{both[0]} is in both lists of {folder}. Download the archive again.")
    clips = tuple(
        Clip(name, _split_of(name, splits), label)
        for label, digit in enumerate(DIGITS)
        for name in (f"{digit}/{file}" for file in audio_files(folder / digit))
    )
    version = _version(splits)
    collection = Collection(f"sc09-{version}", folder, clips, DIGITS)
    if collection.counts == SC09_COUNTS.get(version):
        return collection
    _warn_incomplete(collection, version, splits)
    return replace(collection, name=f"sc09-{version}-part")


def fsdd(folder: str | Path, by_speaker: bool = False) -> Collection:
    """Return the recordings `{digit}_{speaker}_{index}.wav` of FSDD or of a folder with such names.

    Official split: indices 0 to 4 for test, as published; 5 to 9 for validation. Split by speaker: the last
    speaker in alphabetical order for test, the one before for validation. Raises FileNotFoundError, and
    ValueError for a folder without audio, another file name, or too few speakers.
    """
    folder = Path(folder)
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    parsed = {name: _parse_fsdd(name, folder) for name in audio_files(folder)}
    if not by_speaker:
        clips = [Clip(name, _official_split(index), digit) for name, (digit, _, index) in parsed.items()]
        return Collection("fsdd", folder, tuple(clips), DIGITS)
    speakers = sorted({speaker for _, speaker, _ in parsed.values()})
    if len(speakers) < len(SPLITS):
        raise ValueError(
            f"{folder} has {len(speakers)} speaker(s), but a split by speaker needs {len(SPLITS)}. Use the "
            "official split."
        )
    held_out = {speakers[-2]: "valid", speakers[-1]: "test"}
    clips = [
        Clip(name, held_out.get(speaker, "train"), digit) for name, (digit, speaker, _) in parsed.items()
    ]
    return Collection("fsdd-by-speaker", folder, tuple(clips), DIGITS)


def _read_list(path: Path) -> set[str]:
    """Return the digit clips of a list."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}, so {path.parent} is not an unpacked Speech Commands archive. "
            "Download one with: python -m audio.download sc09"
        )
    return {name for name in path.read_text().splitlines() if name.partition("/")[0] in DIGITS}


def _split_of(name: str, splits: Mapping[str, set[str]]) -> str:
    return next((split for split, names in splits.items() if name in names), "train")


def _version(splits: Mapping[str, set[str]]) -> str:
    sizes = {split: len(names) for split, names in splits.items()}
    known = [version for version, counts in SC09_COUNTS.items() if sizes.items() <= counts.items()]
    return known[0] if known else "unknown"


def _warn_incomplete(collection: Collection, version: str, splits: Mapping[str, set[str]]) -> None:
    """Log the clips that an incomplete archive lacks."""
    expected = SC09_COUNTS.get(version)
    missing = sorted(splits["valid"].union(splits["test"]) - {clip.name for clip in collection.clips})
    log.warning(
        "%s is not a whole Speech Commands archive, so results are not comparable with published ones: it "
        "has %s clips for %s, %s.%s",
        collection.folder,
        _in_splits(collection.counts),
        ", ".join(SPLITS),
        f"{version} has {_in_splits(expected)}" if expected else "and the lists of no known version",
        f" {len(missing):,} clips that its lists name are missing, first {missing[0]}." if missing else "",
    )


def _in_splits(counts: Mapping[str, int]) -> str:
    return " / ".join(f"{counts[split]:,}" for split in SPLITS)


def _parse_fsdd(name: str, folder: Path) -> tuple[int, str, int]:
    """Return digit, speaker and index from a file name."""
    match = FSDD_NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{folder / name} is not named digit_speaker_index, such as 7_theo_12.wav. Rename or remove it."
        )
    return int(match[1]), match[2], int(match[3])


def _official_split(index: int) -> str:
    if index in FSDD_TEST:
        return "test"
    return "valid" if index in FSDD_VALID else "train"
