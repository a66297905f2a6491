"""NumPy arrays in .npy files, with their checksum and a key in the JSON file beside them."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.storage.atomic import read_json, replaced_atomically, write_json

_CHUNK = 1 << 20


def write_array(path: Path, array: np.ndarray, content: Mapping[str, Any] | None = None) -> None:
    """Write an array and then its JSON file (`json_path`), with the checksum of the array and `content`."""
    json_path(path).unlink(missing_ok=True)
    with replaced_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    seal_array(path, content)


def seal_array(path: Path, content: Mapping[str, Any] | None = None) -> None:
    """Write the JSON file of an array that is complete on disk."""
    write_json(json_path(path), {**(content or {}), "array": file_checksum(path)}, checksum=True)


def read_array(path: Path, mmap: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an array and the content of its JSON file.

    mmap: map the array into memory, read-only. Raises ValueError, naming the file, if one of the two is
    damaged, and OSError if one is missing.
    """
    content = read_json(json_path(path))
    if content.pop("array", None) != file_checksum(path):
        raise ValueError(f"{path} is damaged: it does not have the checksum in {json_path(path).name}.")
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False), content
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def json_path(path: Path) -> Path:
    """Return the path of the JSON file of an array: NAME.npy.json."""
    return path.with_name(f"{path.name}.json")


def file_checksum(path: Path) -> str:
    """Return the crc32 of the content of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
