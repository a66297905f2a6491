"""Splits of a genome into train, valid and test, and the windows of each split.

Two rules decide which windows a split has:

paper: Mamba (Gu and Dao, 2023) E.3.1. A segment of at least L bases is tiled without overlap. A shorter one
    gives two windows, one that begins with it and one that ends with it, shifted to stay inside the record.
    Windows longer than their segments overlap other splits; `split_overlap` measures the overlap.
strict: splits never share a base, at any length. A base in several splits belongs to the last of train,
    valid, test. Training samples windows uniformly over all starts; held-out splits are tiled.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np

from bio.genome.genome import Genome
from bio.genome.interval import add_line_number, bed_lines, parse_span
from bio.genome.spans import Spans, as_spans, merge, overlap, subtract
from bio.windows.window import TiledWindows, Windows, random_windows, select_windows, tile, tiled_windows

SPLITS = ("train", "valid", "test")
HELD_OUT = SPLITS[1:]
RULES = ("paper", "strict")

Splits = dict[str, Spans]
"""From "train", "valid" and "test" to spans of one genome."""

logger = logging.getLogger(__name__)


def read_bed_splits(path: str | Path, genome: Genome) -> Splits:
    """Read a BED file of chromosome, start, end, split with tabs and no header (the layout of Basenji).

    Segments keep the order of the file and may overlap. Raises FileNotFoundError, or ValueError with the line
    number for a malformed or inverted row, an unknown chromosome or split, an interval past the end of its
    chromosome, and a duplicate interval.
    """
    segments: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    first_line: dict[tuple[int, int], int] = {}
    for number, line in bed_lines(Path(path)):
        with add_line_number(path, number):
            split, span = _parse_segment(line, genome)
            if span in first_line:
                raise ValueError(
                    f"The interval is already on line {first_line[span]}. Remove one of the two lines."
                )
        first_line[span] = number
        segments[split].append(span)
    if not first_line:
        raise ValueError(f"{path} holds no intervals. Write lines of chromosome, start, end and split.")
    return {split: as_spans(spans) for split, spans in segments.items()}


def split_by_region(genome: Genome, regions: Mapping[str, Sequence[str]]) -> Splits:
    """Return splits from a mapping of split to regions, each in the syntax of `parse_span`.

    If no region is for training, all bases outside the others are. Raises ValueError for an unknown split or
    record, and for a base in two regions.
    """
    spans: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for split, texts in regions.items():
        _check_split(split)
        for text in texts:
            span = parse_span(text, genome)
            for other, other_spans in spans.items():
                if overlap(as_spans(other_spans), as_spans([span])):
                    raise ValueError(
                        f"Bases of {text} are in split {other} and again in {split}. List them once."
                    )
            spans[split].append(span)
    splits = {split: as_spans(rows) for split, rows in spans.items()}
    if not spans["train"]:
        splits["train"] = subtract(genome.record_spans, np.concatenate(list(splits.values())))
    return splits


def split_by_fraction(genome: Genome, valid: float, test: float = 0.0) -> Splits:
    """Cut every record in three: train, then the fraction `valid`, then the fraction `test` at the end.

    Raises ValueError if the fractions leave nothing for training.
    """
    if min(valid, test) < 0 or valid + test >= 1:
        raise ValueError(
            f"Fractions valid={valid} and test={test} leave nothing for training. Both must be at least 0, "
            "and their sum less than 1."
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


def separate(splits: Splits) -> Splits:
    """Return the splits merged and disjoint; a shared base goes to the last of train, valid, test."""
    disjoint: Splits = {}
    claimed = as_spans()
    for split in reversed(SPLITS):
        disjoint[split] = subtract(splits[split], claimed)
        claimed = merge(np.concatenate([claimed, disjoint[split]]))
    return {split: disjoint[split] for split in SPLITS}


def split_windows(
    genome: Genome, splits: Splits, length: int, rule: str, max_n_fraction: float = 0.5
) -> tuple[Windows, dict[str, TiledWindows]]:
    """Return the training windows, and the windows of each held-out split with bases, under a rule.

    Windows with a fraction of N above max_n_fraction are left out. Raises ValueError for an unknown rule, a
    length below 1, and a split without a window.
    """
    if rule not in RULES:
        raise ValueError(f"The window rule {rule!r} is unknown; it must be one of {', '.join(RULES)}.")
    if length < 1:
        raise ValueError(f"The window length is {length}; it must be at least 1.")
    if rule == "strict":
        splits = separate(splits)
    train_windows = random_windows if rule == "strict" else paper_windows
    held_out_windows = tiled_windows if rule == "strict" else paper_windows
    with _add_split_name("train"):
        train: Windows = train_windows(genome, splits["train"], length, max_n_fraction)
    held_out: dict[str, TiledWindows] = {}
    for split in HELD_OUT:
        if len(splits[split]):
            with _add_split_name(split):
                held_out[split] = held_out_windows(genome, splits[split], length, max_n_fraction)
    if rule == "strict" and any(split_overlap({"train": train} | held_out).values()):
        raise RuntimeError("The strict rule let splits overlap. This is a bug in Helixwave: report it.")
    return train, held_out


def split_overlap(windows: Mapping[str, Windows]) -> dict[tuple[str, str], int]:
    """Return the number of bases that the windows of each pair of splits share."""
    coverage = {split: item.coverage() for split, item in windows.items()}
    return {pair: overlap(coverage[pair[0]], coverage[pair[1]]) for pair in combinations(coverage, 2)}


def paper_windows(genome: Genome, segments: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """Return the windows of segments (n, 2) under the paper's rule; ValueError if there are none.

    Segments of 2^17 bases give n * 2^17 / length windows for a power of two up to 2^17, and 2n above.
    """
    index = np.searchsorted(genome.record_spans[:, 0], segments[:, 0], side="right") - 1
    records = genome.record_spans[index]
    is_tiled = segments[:, 1] - segments[:, 0] >= length
    has_room = records[:, 1] - records[:, 0] >= length
    if skipped := int((~has_room).sum()):
        logger.warning(
            "%d of %d segments lie on records of under %d bases: no window.", skipped, len(segments), length
        )
    low, high = records[:, 0], records[:, 1] - length
    begin = np.clip(segments[:, 0], low, high)[~is_tiled & has_room]
    finish = np.clip(segments[:, 1] - length, low, high)[~is_tiled & has_room]
    starts = np.concatenate([tile(segments[is_tiled], length), begin, finish])
    return select_windows(genome, starts, genome.record_spans, records, length, max_n_fraction)


def _parse_segment(line: str, genome: Genome) -> tuple[str, tuple[int, int]]:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 4 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise ValueError(
            f"{line.strip()!r} is not an interval. Write chromosome, start, end and split with tabs, and no "
            "header."
        )
    name, start, end, split = fields
    _check_split(split)
    return split, genome.span(name, int(start), int(end))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"Split {split!r} is unknown: it must be one of {', '.join(SPLITS)}.")


@contextmanager
def _add_split_name(split: str) -> Iterator[None]:
    """Prefix every ValueError of the body with the split."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Split {split}: {error}") from error
