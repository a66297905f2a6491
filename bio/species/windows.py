"""Windows of species: the species, segment and start of sample number k, by arithmetic alone.

Species, segment and start are sampled uniformly, in this order. At a start the whole window fits and
holds few N (Gu and Dao 2023, section E.3.4), so no window is shortened or padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bio.genome.genome import unknown_runs
from bio.genome.spans import Integers, Spans, as_spans, contains
from bio.genome.vocabulary import Bytes, without_mask
from bio.species.segments import Segment, SpeciesData
from bio.windows.window import starts_with_few_n
from core.random import random_uniform
from core.statistics import evenly_spaced

CLASS_STREAM, SEGMENT_STREAM, START_STREAM = 11, 12, 13
CLUSTER_BASES = 1 << 16


class Window(NamedTuple):
    """A window: its class, the index of its segment, its start in the segment (bases)."""

    label: int
    segment: int
    start: int


class LeftOut(NamedTuple):
    """Sequence of one species that an evaluation at one length does not read.

    short: names of segments shorter than a window. short_bases: their bases. windows: windows with more N
    than allowed.
    """

    species: str
    short: list[str]
    short_bases: int
    windows: int


@dataclass(frozen=True)
class SpeciesWindows:
    """All windows of one length in a split.

    names: class names. length: window length (bases). segments: for each class the segments that hold a
    window. start_spans: for each segment the spans (n, 2) of possible starts.
    """

    names: list[str]
    length: int
    segments: list[list[Segment]]
    start_spans: list[list[Spans]]

    def sample(self, counter: Integers, seed: int) -> list[Window]:
        """Return the windows with numbers `counter` (n,) of a seed."""
        uniforms = [
            random_uniform(seed, stream, counter) for stream in (CLASS_STREAM, SEGMENT_STREAM, START_STREAM)
        ]
        windows = []
        for class_uniform, segment_uniform, start_uniform in zip(*uniforms, strict=True):
            label = int(class_uniform * len(self.names))
            segment = int(segment_uniform * len(self.segments[label]))
            windows.append(Window(label, segment, _start(self.start_spans[label][segment], start_uniform)))
        return windows

    def list_windows(self, count: int | None, stride: int) -> list[Window]:
        """Return evaluation windows at every `stride` bases of each segment, equally many per species.

        count: windows per species, evenly spaced; None takes as many as the species with fewest has.
        Raises ValueError, naming the species, if one has none.
        """
        by_class = [self._windows_of_class(label, stride) for label in range(len(self.names))]
        for name, windows in zip(self.names, by_class, strict=True):
            if not windows:
                raise ValueError(
                    f"Species {name} has no window of {self.length:,} bases at a multiple of {stride:,} "
                    "within max_n_fraction: allow more N, or choose a shorter length."
                )
        per_class = min(len(windows) for windows in by_class)
        per_class = per_class if count is None else min(per_class, count)
        return [windows[i] for windows in by_class for i in evenly_spaced(len(windows), per_class)]

    def read(self, window: Window, length: int | None = None) -> Bytes:
        """Return the tokens (length,) of a window or of its first `length` bases, without the soft mask."""
        bases = self.segments[window.label][window.segment].bases
        return without_mask(bases[window.start : window.start + (length or self.length)])

    def cluster(self, window: Window) -> str:
        """Cluster of a window for the bootstrap: its segment's name and its position, in CLUSTER_BASES.

        Segments of one name (chromosome, group of blocks) are homologous, so they share clusters.
        """
        piece = window.start // max(CLUSTER_BASES, self.length)
        return f"{self.segments[window.label][window.segment].name}:{piece}"

    def record(self, window: Window) -> str:
        """Species and segment of a window; the windows of a record vote together."""
        return f"{self.names[window.label]} {self.segments[window.label][window.segment].name}"

    def _windows_of_class(self, label: int, stride: int) -> list[Window]:
        windows = []
        for number, (segment, spans) in enumerate(
            zip(self.segments[label], self.start_spans[label], strict=True)
        ):
            starts = np.arange(0, len(segment.bases) - self.length + 1, stride)
            windows += [Window(label, number, start) for start in starts[contains(spans, starts)].tolist()]
        return windows


def species_windows(data: SpeciesData, split: str, length: int, max_n_fraction: float) -> SpeciesWindows:
    """Return all windows of a split with at most max_n_fraction of N.

    Raises ValueError for an unknown split, a length under 1, and a species without a window.
    """
    if split not in data.segments:
        raise ValueError(
            f"The species have no sequences in split {split}, only in {', '.join(data.segments)}: "
            "name sequences for it in the set."
        )
    if length < 1:
        raise ValueError(f"A window cannot have {length} bases: the length must be at least 1.")
    segments_left, spans = [], []
    for name, segments in zip(data.names, data.segments[split], strict=True):
        allowed = [_starts(segment.bases, length, max_n_fraction) for segment in segments]
        usable = [i for i, starts in enumerate(allowed) if len(starts)]
        if not usable:
            raise ValueError(_too_short(name, segments, split, length, max_n_fraction))
        segments_left.append([segments[i] for i in usable])
        spans.append([allowed[i] for i in usable])
    return SpeciesWindows(data.names, length, segments_left, spans)


def left_out(data: SpeciesData, split: str, length: int, max_n_fraction: float) -> list[LeftOut]:
    """Return what adjacent windows of a split leave out, for each species that loses any."""
    result = []
    for name, segments in zip(data.names, data.segments[split], strict=True):
        short = [segment for segment in segments if len(segment.bases) < length]
        windows = 0
        for segment in segments:
            starts = np.arange(0, len(segment.bases) - length + 1, length)
            spans = _starts(segment.bases, length, max_n_fraction)
            windows += len(starts) - int(contains(spans, starts).sum())
        if short or windows:
            names = [segment.name for segment in short]
            result.append(LeftOut(name, names, sum(len(segment.bases) for segment in short), windows))
    return result


def _starts(bases: Bytes, length: int, max_n_fraction: float) -> Spans:
    starts = as_spans([(0, len(bases) - length + 1)] if len(bases) >= length else [])
    if not len(starts):
        return starts
    return starts_with_few_n(unknown_runs(bases), starts, length, int(max_n_fraction * length))


def _start(spans: Spans, uniform: float) -> int:
    """Return the start at a fraction `uniform` in [0, 1) of all starts in spans (n, 2)."""
    cumulative = np.cumsum(spans[:, 1] - spans[:, 0])
    choice = int(uniform * cumulative[-1])
    span = int(np.searchsorted(cumulative, choice, side="right"))
    return int(spans[span, 1] - (cumulative[span] - choice))


def _too_short(name: str, segments: Sequence[Segment], split: str, length: int, max_n_fraction: float) -> str:
    longest = max(segments, key=lambda segment: len(segment.bases))
    if len(longest.bases) < length:
        reason = f"its longest sequence, {longest.name}, has {len(longest.bases):,}. Choose a shorter length"
    else:
        reason = f"each holds more than {max_n_fraction:.0%} N. Allow more N, or choose a shorter length"
    return f"Species {name} has no window of {length:,} bases in split {split}: {reason}, or leave it out."
