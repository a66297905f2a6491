"""Intervals and splits: which bases are for training, validation and test, and which are scored.

A split is a name, "train", "valid" or "test", and the spans (bio.genome.spans) that belong to it
in one genome.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bio.genome.genome import Genome
from bio.genome.spans import Spans, as_spans, overlap, subtract

SPLITS = ("train", "valid", "test")

Splits = dict[str, Spans]

BED_COMMENTS = ("#", "track", "browser")


class Region(NamedTuple):
    """Bases start .. end - 1 (0-based) of a record; `name` is what the file calls them, or empty."""

    record: str
    start: int
    end: int
    name: str


def read_bed(path: str | Path, genome: Genome) -> Splits:
    """The splits of a BED file of chromosome, start, end, split, tabs between, no header (Basenji's layout).

    Segments keep the order of the file and may overlap. Raises FileNotFoundError, or ValueError naming the
    line, for a row that is malformed, inverted, past its chromosome's end, on an unknown chromosome, of an
    unknown split, or there twice.
    """
    segments: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    first_line: dict[tuple[int, int], int] = {}
    for number, line in _lines(Path(path)):
        with _naming(path, number):
            split, span = _parse(line, genome)
            if span in first_line:
                raise ValueError(
                    f"The interval stands already on line {first_line[span]}: remove one of the two."
                )
        first_line[span] = number
        segments[split].append(span)
    if not first_line:
        raise ValueError(f"{path} holds no intervals: write lines of chromosome, start, end and split.")
    return {split: as_spans(spans) for split, spans in segments.items()}


def read_regions(path: str | Path, genome: Genome) -> list[Region]:
    """The regions of any BED file, in its order: chromosome, start, end, and a name where there is one.

    Further columns, comments and track lines are passed over; regions may overlap. Raises FileNotFoundError,
    or ValueError naming the line, for a row that is malformed, inverted, past its chromosome's end, or on an
    unknown chromosome.
    """
    regions = []
    for number, line in _lines(Path(path)):
        if not line.startswith(BED_COMMENTS):
            with _naming(path, number):
                regions.append(_parse_region(line, genome))
    if not regions:
        raise ValueError(f"{path} holds no regions: write lines of chromosome, start and end, tabs between.")
    return regions


def split_by_region(genome: Genome, regions: Mapping[str, Sequence[str]]) -> Splits:
    """Splits of records and parts of them, as `named_span` reads them, by a mapping from split to regions.

    What no split names is training, unless `regions` names that too. Raises ValueError for an unknown split
    or record, and for a base that is named twice.
    """
    spans: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for split, texts in regions.items():
        _check_split(split)
        for text in texts:
            span = named_span(text, genome)
            for owner, theirs in spans.items():
                if overlap(as_spans(theirs), as_spans([span])):
                    raise ValueError(
                        f"Bases of {text} are named in split {owner} and again in {split}: name them once."
                    )
            spans[split].append(span)
    splits = {split: as_spans(rows) for split, rows in spans.items()}
    if not spans["train"]:
        splits["train"] = subtract(genome.record_spans, np.concatenate(list(splits.values())))
    return splits


def named_span(text: str, genome: Genome) -> tuple[int, int]:
    """The positions in the pack of "chr20", "chr20:100001-200000" or "chr20:11000001-": a record, or the part
    from a base to another (counted from 1, both included, as in samtools), or to its end.

    Raises ValueError for an unknown record, an inverted region and one past the record's end.
    """
    name, colon, bounds = text.rpartition(":")
    if text in genome.records or not colon:
        return genome.span(text)
    start, dash, end = bounds.replace(",", "").partition("-")
    if not (start.isdecimal() and dash and (end.isdecimal() or not end)):
        raise ValueError(
            f"{text!r} is not a region: write a chromosome, or a part of it, as chr20:100001-200000 or as "
            "chr20:100001- to its end."
        )
    length = genome.resolve(name).length
    first, last = int(start), int(end) if end else length
    if not 1 <= first <= last:
        raise ValueError(
            f"The region {text} is inverted, or begins before base 1 or past the end of {name}, which has "
            f"{length:,} bases: write its first base, counted from 1, and its last."
        )
    return genome.span(name, first - 1, last)


def split_by_fraction(genome: Genome, valid: float, test: float = 0.0) -> Splits:
    """Splits that cut every record in up to three: train, then the fraction `valid`, then `test` at the end.

    Raises ValueError when the fractions leave nothing for training.
    """
    if min(valid, test) < 0 or valid + test >= 1:
        raise ValueError(
            f"Fractions valid={valid} and test={test} leave nothing for training: they must be at least 0 "
            "and sum to less than 1."
        )
    rows: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for record in genome.records.values():
        train_end = round(record.length * (1 - valid - test))
        valid_end = round(record.length * (1 - test))
        bounds = (0, train_end, valid_end, record.length)
        for split, start, end in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
            if start < end:
                rows[split].append((record.offset + start, record.offset + end))
    return {split: as_spans(spans) for split, spans in rows.items()}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists():
        raise FileNotFoundError(f"There is no BED file {path}: check the path.")
    try:
        with path.open(encoding="utf-8-sig") as file:  # spreadsheets begin a text with a mark
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: decompress it, or name another BED file.") from error


@contextmanager
def _naming(path: str | Path, line: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _parse(line: str, genome: Genome) -> tuple[str, tuple[int, int]]:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 4 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise ValueError(
            f"{line.strip()!r} is not an interval: write chromosome, start, end and split with tabs between, "
            "and no header."
        )
    name, start, end, split = fields
    _check_split(split)
    return split, genome.span(name, int(start), int(end))


def _parse_region(line: str, genome: Genome) -> Region:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) < 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise ValueError(
            f"{line.strip()!r} is not a region: write chromosome, start and end with tabs between."
        )
    record, start, end = genome.resolve(fields[0]).name, int(fields[1]), int(fields[2])
    genome.span(record, start, end)
    return Region(record, start, end, fields[3] if len(fields) > 3 else "")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"Split {split!r} is unknown: it must be one of {', '.join(SPLITS)}.")
