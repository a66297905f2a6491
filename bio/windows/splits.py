"""The rules that say which windows each split has.

paper: Mamba (Gu and Dao, 2023) E.3.1. A segment of at least L bases is tiled without overlap; a shorter one
    gives two windows, one that begins with it and one that ends with it, shifted inside the record. Windows
    longer than their segments run into other splits: `split_overlap` says by how much.
strict: no base of a split is ever read by another, at any length. A base claimed twice belongs to the later
    of train, valid, test. Training draws its windows uniformly over all starts; the others are tiled.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations

import numpy as np

from bio.genome.genome import Genome
from bio.genome.interval import SPLITS, Splits
from bio.genome.spans import Spans, as_spans, merge, overlap, subtract
from bio.windows.window import TiledWindows, Windows, drawn_windows, listed_windows, tile, tiled_windows

RULES = ("paper", "strict")
HELD_OUT = SPLITS[1:]

logger = logging.getLogger(__name__)


def split_windows(
    genome: Genome, splits: Splits, length: int, rule: str, max_n_fraction: float = 0.5
) -> tuple[Windows, dict[str, TiledWindows]]:
    """The training windows, and those of each held-out split that has bases, under a rule of this file.

    Windows with more than max_n_fraction of N are left out. Raises ValueError for an unknown rule, a length
    under 1, and a split without a window.
    """
    if rule not in RULES:
        raise ValueError(f"The rule of windows {rule!r} is unknown: it must be one of {', '.join(RULES)}.")
    if length < 1:
        raise ValueError(f"A window cannot have {length} bases: the length must be at least 1.")
    if rule == "strict":
        splits = separate(splits)
    train_windows = drawn_windows if rule == "strict" else paper_windows
    held_out_windows = tiled_windows if rule == "strict" else paper_windows
    with _naming("train"):
        train: Windows = train_windows(genome, splits["train"], length, max_n_fraction)
    held_out: dict[str, TiledWindows] = {}
    for split in HELD_OUT:
        if len(splits[split]):
            with _naming(split):
                held_out[split] = held_out_windows(genome, splits[split], length, max_n_fraction)
    if rule == "strict" and any(split_overlap({"train": train} | held_out).values()):
        raise RuntimeError("The strict rule let splits overlap, which is a defect of Helixwave: report it.")
    return train, held_out


def split_overlap(windows: Mapping[str, Windows]) -> dict[tuple[str, str], int]:
    """How many bases the windows of each two splits both read."""
    coverage = {split: item.coverage() for split, item in windows.items()}
    return {pair: overlap(coverage[pair[0]], coverage[pair[1]]) for pair in combinations(coverage, 2)}


def separate(splits: Splits) -> Splits:
    """The splits merged, a base claimed by several left to the last of train, valid, test."""
    separated: Splits = {}
    claimed = as_spans()
    for split in reversed(SPLITS):
        separated[split] = subtract(splits[split], claimed)
        claimed = merge(np.concatenate([claimed, separated[split]]))
    return {split: separated[split] for split in SPLITS}


def paper_windows(genome: Genome, segments: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """The windows of segments (n, 2) under the paper's rule; ValueError when there are none.

    Segments of 2^17 bases give n * 2^17 / length windows for a power of two up to 2^17, and 2n above.
    """
    index = np.searchsorted(genome.record_spans[:, 0], segments[:, 0], side="right") - 1
    records = genome.record_spans[index]
    is_tiled = segments[:, 1] - segments[:, 0] >= length
    has_room = records[:, 1] - records[:, 0] >= length
    if lost := int((~has_room).sum()):
        logger.warning(
            "%d of %d segments lie on records of under %d bases: no window.", lost, len(segments), length
        )
    low, high = records[:, 0], records[:, 1] - length
    begin = np.clip(segments[:, 0], low, high)[~is_tiled & has_room]
    finish = np.clip(segments[:, 1] - length, low, high)[~is_tiled & has_room]
    starts = np.concatenate([tile(segments[is_tiled], length), begin, finish])
    return listed_windows(genome, starts, genome.record_spans, records, length, max_n_fraction)


@contextmanager
def _naming(split: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Split {split}: {error}") from error
