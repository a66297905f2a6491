"""Intervals of a genome: parts of records, read from BED files or written as "chr20:100001-200000"."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bio.genome.genome import Genome

BED_COMMENTS = ("#", "track", "browser")


class Interval(NamedTuple):
    """Bases start .. end - 1 (0-based) of a record; `name` is the label in the BED file, or empty."""

    record: str
    start: int
    end: int
    name: str


def record_intervals(genome: Genome) -> list[Interval]:
    """Return every record as one interval without a name."""
    return [Interval(record.name, 0, record.length, "") for record in genome.records.values()]


def read_intervals(path: str | Path, genome: Genome) -> list[Interval]:
    """Read the intervals of a BED file, in file order: chromosome, start, end, and a name if present.

    Further columns, comments and track lines are ignored; intervals may overlap. Raises FileNotFoundError, or
    ValueError with the line number for a malformed or inverted row, an unknown chromosome, and an interval
    past the end of its chromosome.
    """
    intervals = []
    for number, line in bed_lines(Path(path)):
        if not line.startswith(BED_COMMENTS):
            with add_line_number(path, number):
                intervals.append(_parse_interval(line, genome))
    if not intervals:
        raise ValueError(f"{path} holds no intervals. Write lines of chromosome, start and end with tabs.")
    return intervals


def parse_span(text: str, genome: Genome) -> tuple[int, int]:
    """Return the positions in the pack of "chr20", "chr20:100001-200000" or "chr20:11000001-".

    The text is a record, or a part of one: its first and last base (1-based, both included, as in samtools),
    or its first base and the rest. Raises ValueError for an unknown record, an inverted part, and one past
    the end of the record.
    """
    name, colon, bounds = text.rpartition(":")
    if text in genome.records or not colon:
        return genome.span(text)
    start, dash, end = bounds.replace(",", "").partition("-")
    if not (start.isdecimal() and dash and (end.isdecimal() or not end)):
        raise ValueError(
            f"{text!r} is not a region. Write a chromosome, or a part of one: chr20:100001-200000, or "
            "chr20:100001- to its end."
        )
    length = genome.resolve(name).length
    first, last = int(start), int(end) if end else length
    if not 1 <= first <= last:
        raise ValueError(
            f"The region {text} is inverted, or begins before base 1 or past the end of {name}, which has "
            f"{length:,} bases. Write its first base (counted from 1) and its last."
        )
    return genome.span(name, first - 1, last)


def bed_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of every line that is not blank.

    Raises FileNotFoundError for a missing file, and ValueError for a binary one.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no BED file {path}. Check the path.")
    try:
        with path.open(encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file. Decompress it, or give another BED file.") from error


@contextmanager
def add_line_number(path: str | Path, line: int) -> Iterator[None]:
    """Prefix every ValueError of the body with the file and the line."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _parse_interval(line: str, genome: Genome) -> Interval:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) < 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise ValueError(f"{line.strip()!r} is not an interval. Write chromosome, start and end with tabs.")
    record, start, end = genome.resolve(fields[0]).name, int(fields[1]), int(fields[2])
    genome.span(record, start, end)  # raises for a bad interval
    return Interval(record, start, end, fields[3] if len(fields) > 3 else "")
