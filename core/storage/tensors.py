"""Safetensors files with checksums, written atomically and deterministically, read without executing code.

The metadata key `checksums` holds the crc32 of each tensor, and under the name "" that of the rest of the
header. The order of tensors and metadata is canonical: equal content gives equal bytes. Files of other
programs, which lack the key, are not verified.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.storage.atomic import replaced_atomically

CHECKSUMS = "checksums"
"""Metadata key of the checksums."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 100_000_000
"""Limit of the safetensors library, in bytes."""


class DamagedError(ValueError):
    """A tensor file that is not what was written: the file and the damage."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Replace a safetensors file atomically. Raises OSError, naming the file, if the disk fails."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entries: dict[str, Any] = {}
    offset = 0
    for name in sorted(on_cpu, key=lambda name: (-on_cpu[name].element_size(), name)):  # keeps them aligned
        tensor = on_cpu[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    checksums = {name: _crc(_bytes(on_cpu[name])) for name in entries}
    checksums[""] = _header_crc(entries, metadata)
    stored = {**metadata, CHECKSUMS: json.dumps(checksums, sort_keys=True)}
    text = json.dumps({"__metadata__": dict(sorted(stored.items())), **entries}).encode()
    text += b" " * (-len(text) % 8)
    with replaced_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for name in entries:
            file.write(_bytes(on_cpu[name]))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the verified metadata of a file, without the checksums.

    Raises DamagedError, naming the file, if the header is damaged or the file has another length; OSError if
    it cannot be read.
    """
    return _read_header(path)[0]


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file, verified.

    Raises as read_metadata does, and DamagedError with the name of a damaged tensor.
    """
    metadata, checksums = _read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}).") from error
    for name, checksum in checksums.items():
        if name and _crc(_bytes(tensors[name])) != checksum:
            raise DamagedError(f"{path} is damaged: the tensor {name} does not have its checksum.")
    return metadata, tensors


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the metadata and the checksums; none for a file without them."""
    try:
        with safe_open(path, framework="pt"):  # checks names, shapes, offsets and the length of the file
            pass
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            entries = json.loads(file.read(min(length, _LARGEST_HEADER)))
        metadata: dict[str, str] = entries.pop("__metadata__", None) or {}
        checksums = json.loads(metadata.pop(CHECKSUMS, "{}"))
        verified = not checksums or (
            checksums.keys() == {"", *entries} and checksums[""] == _header_crc(entries, metadata)
        )
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}).") from error
    if not verified:
        raise DamagedError(f"{path} is damaged: its header does not have its checksum.")
    return metadata, checksums


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _crc(content: memoryview | bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def _header_crc(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    return _crc(json.dumps([entries, dict(metadata)], sort_keys=True).encode())
