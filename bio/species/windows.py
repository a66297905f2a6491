"""Windows of species: which stretch and start is sample number k, by arithmetic alone.

A species is drawn uniformly, then one of its stretches, then a start among all from where the window is whole
and holds few N (Gu and Dao 2023, section E.3.4): no window is cut short or padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bio.genome.genome import unknown_runs
from bio.genome.spans import Integers, Spans, as_spans, contains
from bio.genome.vocabulary import Bytes, without_mask
from bio.species.segments import SpeciesData, Stretch
from bio.windows.window import starts_with_few_n
from core.random import random_uniform
from core.statistics import evenly_spaced

CLASS_STREAM, STRETCH_STREAM, START_STREAM = 11, 12, 13
CLUSTER_BASES = 1 << 16


class Window(NamedTuple):
    """A window: the class, which of its stretches, the start in it."""

    label: int
    stretch: int
    start: int


@dataclass(frozen=True)
class SpeciesWindows:
    """All windows of one length of a split.

    names: of the classes. length: bases in a window. stretches: for each class those that windows fit in.
    start_spans: beside each stretch, where a window may start (n, 2).
    """

    names: list[str]
    length: int
    stretches: list[list[Stretch]]
    start_spans: list[list[Spans]]

    def sample(self, counter: Integers, seed: int) -> list[Window]:
        """The windows number `counter` (n,) of a seed."""
        drawn = [
            random_uniform(seed, stream, counter) for stream in (CLASS_STREAM, STRETCH_STREAM, START_STREAM)
        ]
        windows = []
        for of_class, of_stretch, of_start in zip(*drawn, strict=True):
            label = int(of_class * len(self.names))
            stretch = int(of_stretch * len(self.stretches[label]))
            windows.append(Window(label, stretch, _start(self.start_spans[label][stretch], of_start)))
        return windows

    def listed(self, count: int | None, stride: int) -> list[Window]:
        """Windows to evaluate on: every `stride` bases of each stretch, as many of each species.

        They are those of the species with fewest, or `count`, evenly spaced. Raises ValueError, naming the
        species, where one has none.
        """
        found = [self._every(label, stride) for label in range(len(self.names))]
        for name, windows in zip(self.names, found, strict=True):
            if not windows:
                raise ValueError(
                    f"Species {name} has no window of {self.length:,} bases at a multiple of {stride:,} "
                    "with so few N: allow more N, or choose a shorter length."
                )
        each = min(len(windows) for windows in found)
        each = each if count is None else min(each, count)
        return [windows[i] for windows in found for i in evenly_spaced(len(windows), each)]

    def read(self, window: Window, length: int | None = None) -> Bytes:
        """The tokens (length,) of a window, or of its first `length` bases; upper and lower case are one."""
        bases = self.stretches[window.label][window.stretch].bases
        return without_mask(bases[window.start : window.start + (length or self.length)])

    def cluster(self, window: Window) -> str:
        """What windows depend on each other by: the stretch, in pieces of CLUSTER_BASES or of a window.

        Stretches of one name (chromosome, group of blocks) are homologous: their pieces are one cluster.
        """
        piece = window.start // max(CLUSTER_BASES, self.length)
        return f"{self.stretches[window.label][window.stretch].name}:{piece}"

    def record(self, window: Window) -> str:
        """The species and stretch of a window, by which it votes."""
        return f"{self.names[window.label]} {self.stretches[window.label][window.stretch].name}"

    def _every(self, label: int, stride: int) -> list[Window]:
        windows = []
        for number, (stretch, spans) in enumerate(
            zip(self.stretches[label], self.start_spans[label], strict=True)
        ):
            starts = np.arange(0, len(stretch.bases) - self.length + 1, stride)
            windows += [Window(label, number, start) for start in starts[contains(spans, starts)].tolist()]
        return windows


def species_windows(data: SpeciesData, split: str, length: int, max_n_fraction: float) -> SpeciesWindows:
    """All windows of a split that hold at most max_n_fraction of N.

    Raises ValueError for a split that there is not, a length under 1, and a species without a window.
    """
    if split not in data.stretches:
        raise ValueError(
            f"The species have nothing in split {split}, only in {', '.join(data.stretches)}: "
            "name sequences for it."
        )
    if length < 1:
        raise ValueError(f"A window cannot have {length} bases: the length must be at least 1.")
    kept, spans = [], []
    for name, stretches in zip(data.names, data.stretches[split], strict=True):
        allowed = [_starts(stretch.bases, length, max_n_fraction) for stretch in stretches]
        usable = [i for i, starts in enumerate(allowed) if len(starts)]
        if not usable:
            raise ValueError(_too_short(name, stretches, split, length, max_n_fraction))
        kept.append([stretches[i] for i in usable])
        spans.append([allowed[i] for i in usable])
    return SpeciesWindows(data.names, length, kept, spans)


def _starts(bases: Bytes, length: int, max_n_fraction: float) -> Spans:
    starts = as_spans([(0, len(bases) - length + 1)] if len(bases) >= length else [])
    if not len(starts):
        return starts
    return starts_with_few_n(unknown_runs(bases), starts, length, int(max_n_fraction * length))


def _start(spans: Spans, uniform: float) -> int:
    """The start at a fraction `uniform` in [0, 1) of all starts in spans (n, 2)."""
    cumulative = np.cumsum(spans[:, 1] - spans[:, 0])
    choice = int(uniform * cumulative[-1])
    span = int(np.searchsorted(cumulative, choice, side="right"))
    return int(spans[span, 1] - (cumulative[span] - choice))


def _too_short(
    name: str, stretches: Sequence[Stretch], split: str, length: int, max_n_fraction: float
) -> str:
    longest = max(stretches, key=lambda stretch: len(stretch.bases))
    if len(longest.bases) < length:
        reason = f"its longest sequence, {longest.name}, has {len(longest.bases):,}. Choose a shorter length"
    else:
        reason = f"each holds more than {max_n_fraction:.0%} N. Allow more N, or choose a shorter length"
    return f"Species {name} has no window of {length:,} bases in split {split}: {reason}, or leave it out."
