"""FASTA output in constant memory: many records side by side, written while their bases are sampled.

All records have the same length, so the offset of each record is known from the start. Headers are written
last, because they hold results of the sampling; they are padded with blanks to one width.
"""

import math
from pathlib import Path
from types import TracebackType
from typing import Self

LINE = 60


class FastaWriter:
    """FASTA file with records of `length` bases; chunks of bases and headers may be written in any order.

    width: number of characters of every padded header. keep: continue an existing file.
    Bases and headers that were not written are NUL characters in the file.
    """

    def __init__(self, path: Path, length: int, width: int, keep: bool = False) -> None:
        self._width = width
        self._size = width + length + math.ceil(length / LINE) + len("\n")
        self._length = length
        self._file = path.open("r+b" if keep else "wb")

    def write_header(self, record: int, header: str) -> None:
        """Write the header of a record, ">" included. Raises ValueError if it is wider than `width`."""
        if len(header) > self._width:
            raise ValueError(f"The header {header!r} is wider than {self._width} characters.")
        self._put(record * self._size, header.ljust(self._width))

    def write_bases(self, record: int, position: int, bases: str) -> None:
        """Write consecutive bases of a record, the first of them at `position`."""
        end = "\n" if position + len(bases) == self._length else ""
        before = position + math.ceil(position / LINE)
        self._put(record * self._size + self._width + before, wrap_bases(bases, position) + end)

    def flush(self) -> None:
        """Pass all writes to the operating system, so that they survive the end of this process."""
        self._file.flush()

    def _put(self, offset: int, text: str) -> None:
        self._file.seek(offset)
        self._file.write(text.encode("ascii"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def wrap_bases(bases: str, position: int) -> str:
    """Return the bases from `position` of a record on, with a line break before each start of a line."""
    head = -position % LINE
    lines = [bases[:head], *(bases[start : start + LINE] for start in range(head, len(bases), LINE))]
    return "\n".join(lines)
