"""Packed audio: the codes of a collection in a memory map, one byte per sample, written once.

Packing reports every unusable file at once, before any training. Silent and clipped clips are kept unchanged
and reported in the log.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from audio.data.clips import SPLITS, Clip, Collection, count_splits
from audio.data.quantizer import Quantizer, encode
from audio.data.waveform import Waveform, read_waveform
from core.storage.memory_map import index_path, new_pack, open_flat, read_index

KIND = "helixwave packed audio"
VERSION = 1
MAX_LISTED = 5
FULL_SCALE, CLIPPED_SHARE = 0.999, 0.001

log = logging.getLogger(__name__)


class PackedClip(NamedTuple):
    """Clip in a pack; its codes are start .. start + length - 1."""

    name: str
    split: str
    label: int
    start: int
    length: int


class PackedAudio:
    """Codes of a collection, as a memory map.

    name: name of the collection. quantizer: quantizer of the codes. sha256: checksum of the names and
    contents of the files. codes: (samples,) uint8. clips: in the order of the collection. classes: class
    names by label.
    """

    def __init__(self, index: Path) -> None:
        content = read_index(index, KIND, VERSION)
        self.name: str = content["name"]
        self.quantizer: Quantizer = content["quantizer"]
        self.sha256: str = content["sha256"]
        self.classes = tuple(content["classes"])
        self.clips = [PackedClip(**clip) for clip in content["clips"]]
        self.codes: npt.NDArray[np.uint8] = open_flat(index, content)

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips in each split."""
        return count_splits(clip.split for clip in self.clips)


def open_audio(
    collection: Collection, quantizer: Quantizer = "mulaw", cache: str | Path | None = None
) -> PackedAudio:
    """Open the codes of a collection; pack them if the pack is missing, stale, foreign or truncated.

    cache: folder of packs; default: the folder of the clips, or the user's cache if it is not writable.
    Raises ValueError with the names of unusable files, and OSError for a folder without write permission.
    """
    index = index_path(collection.folder, f"{collection.name}.{quantizer}", cache)
    if index.exists():
        reason = _reason_to_pack_again(index, collection)
        if reason is None:
            return PackedAudio(index)
        log.warning("The pack %s is made again: %s.", index, reason)
    _pack(collection, quantizer, index)
    return PackedAudio(index)


def _reason_to_pack_again(index: Path, collection: Collection) -> str | None:
    """Return the reason why a pack does not fit this collection; None if it fits."""
    try:
        content = read_index(index, KIND, VERSION)
    except ValueError as error:
        return str(error).rstrip(".")
    if content["collection"] != _clips_checksum(collection.clips):
        return f"{collection.folder} has other clips now"
    names = _file_names(collection.clips)
    if content["status"] != _status(collection.folder, names) and content["sha256"] != _sha256(
        collection.folder, names
    ):
        return f"clips of {collection.folder} have changed since"
    return None


def _pack(collection: Collection, quantizer: Quantizer, index: Path) -> None:
    folder, names = collection.folder, _file_names(collection.clips)
    with new_pack(index, KIND, VERSION) as (file, content):
        status = _status(folder, names)
        clips = _write_codes(collection, quantizer, file)
        content |= {
            "name": collection.name,
            "quantizer": quantizer,
            "classes": collection.classes,
            "sha256": _sha256(folder, names),
            "status": status,
            "collection": _clips_checksum(collection.clips),
            "clips": [clip._asdict() for clip in clips],
        }


def _write_codes(collection: Collection, quantizer: Quantizer, file: BinaryIO) -> list[PackedClip]:
    """Write the codes of all clips. Raises ValueError with one error per unusable clip."""
    packed: list[PackedClip] = []
    unusable: list[str] = []
    silent: list[str] = []
    clipped: list[str] = []
    start = 0
    for clip in tqdm(collection.clips, desc=f"packing {collection.name}", unit=" clips", disable=None):
        try:
            waveform = _read_clip(collection.folder, clip)
        except (OSError, ValueError) as error:
            unusable.append(str(error))
            continue
        if not waveform.any():
            silent.append(clip.name)
        if (np.abs(waveform) >= FULL_SCALE).mean() > CLIPPED_SHARE:
            clipped.append(clip.name)
        file.write(encode(waveform, quantizer).tobytes())
        packed.append(PackedClip(clip.name, clip.split, clip.label, start, len(waveform)))
        start += len(waveform)
    if unusable:
        raise ValueError(
            f"Nothing was packed, because {len(unusable):,} of the {len(collection.clips):,} clips of "
            f"{collection.name} cannot be used:\n{_first(unusable, chr(10))}"
        )
    for names, finding in ((silent, "hold nothing but silence"), (clipped, "are clipped at full scale")):
        if names:
            log.warning("%s clips of %s %s: %s.", len(names), collection.name, finding, _first(names, ", "))
    return packed


def _read_clip(folder: Path, clip: Clip) -> Waveform:
    waveform = read_waveform(folder / clip.name)
    part = waveform[int(clip.begin * len(waveform)) : int(clip.end * len(waveform))]
    if not len(part):
        raise ValueError(
            f"{folder / clip.name} is too short to be split into {', '.join(SPLITS)}: remove it."
        )
    return part


def _file_names(clips: Iterable[Clip]) -> list[str]:
    """Return the file names of clips without repetition."""
    return list(dict.fromkeys(clip.name for clip in clips))


def _clips_checksum(clips: Sequence[Clip]) -> str:
    """Return a checksum of the list of clips and their splits."""
    return hashlib.sha256(json.dumps(clips).encode()).hexdigest()


def _status(folder: Path, names: Iterable[str]) -> str:
    """Return a checksum of sizes and dates of files, to detect changes without reading them."""
    status = hashlib.sha256()
    for name in names:
        stat = (folder / name).stat() if (folder / name).exists() else None
        status.update(f"{name}\n{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return status.hexdigest()


def _sha256(folder: Path, names: Iterable[str]) -> str:
    """Return a checksum of the names and the contents of files."""
    content = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            content.update(f"{name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return content.hexdigest()


def _first(entries: Sequence[str], separator: str) -> str:
    """Join the first distinct entries and the number of the others; parts of a file have the same error."""
    entries = list(dict.fromkeys(entries))
    more = [f"and {len(entries) - MAX_LISTED:,} more"] if len(entries) > MAX_LISTED else []
    return separator.join([*entries[:MAX_LISTED], *more])
