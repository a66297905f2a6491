"""FASTA that is written while its bases are drawn: many records side by side, in constant memory.

All records of a file have the same length, so that each has its place from the start; headers, which tell
what is known only at the end, are written last, and padded with blanks to one width.
"""

import math
from pathlib import Path
from types import TracebackType
from typing import Self

LINE = 60


class FastaWriter:
    """A FASTA file of records of `length` bases, whose pieces and headers may be written in any order.

    width: characters that every header is padded to. keep: go on with a file that is there.
    A record whose header or pieces were not written holds NUL characters there.
    """

    def __init__(self, path: Path, length: int, width: int, keep: bool = False) -> None:
        self._width = width
        self._size = width + length + math.ceil(length / LINE) + len("\n")
        self._length = length
        self._file = path.open("r+b" if keep else "wb")

    def write_header(self, record: int, header: str) -> None:
        """Write the header, ">" included, of a record. Raises ValueError where it is wider than `width`."""
        if len(header) > self._width:
            raise ValueError(f"The header {header!r} is wider than {self._width} characters.")
        self._put(record * self._size, header.ljust(self._width))

    def write_bases(self, record: int, position: int, bases: str) -> None:
        """Write bases that stand at `position` of a record and after it."""
        end = "\n" if position + len(bases) == self._length else ""
        before = position + math.ceil(position / LINE)
        self._put(record * self._size + self._width + before, wrapped(bases, position) + end)

    def _put(self, offset: int, text: str) -> None:
        self._file.seek(offset)
        self._file.write(text.encode("ascii"))

    def flush(self) -> None:
        """Hand everything to the operating system, where it outlives this process."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def wrapped(bases: str, position: int) -> str:
    """Bases that stand at `position` of a record, a line break before each that begins a line."""
    head = -position % LINE
    lines = [bases[:head], *(bases[start : start + LINE] for start in range(head, len(bases), LINE))]
    return "\n".join(lines)
