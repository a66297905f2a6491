"""How the CUDA kernels spread a scan over the multiprocessors: arithmetic on its shape, never a trial."""

import functools
from typing import NamedTuple

from torch import Tensor

from kernels.layout import multiprocessors

CHUNK = 32  # positions between checkpoints


class Plan(NamedTuple):
    """How a pass spreads over the GPU: channels a lane, and segments of time scanned side by side."""

    per: int
    segments: int


class Costs(NamedTuple):
    """What a way to run a pass costs, in units of 64 channels' chunk on a full multiprocessor of an H200."""

    per: int
    places: float  # for 64 channels each, on one multiprocessor at once
    latency: float  # of a chunk, however few share the multiprocessor
    work: float  # of a chunk, for each that does
    first_phase: float  # the share of a chunk's time in the phase that finds the ends of segments
    overhead: float  # of a segment, in chunks


FORWARD = (
    Costs(per=1, places=2.5, latency=0.35, work=1.45, first_phase=1.2, overhead=0.5),
    Costs(per=2, places=4, latency=1.3, work=1, first_phase=1.2, overhead=0.5),
)
# Clusters leave some places empty.
BACKWARD = (Costs(per=2, places=2.8, latency=3.5, work=1, first_phase=0.16, overhead=0.5),)


def plan(x: Tensor, ways: tuple[Costs, ...]) -> Plan:
    """Choose the channels a lane and the segments for x (batch, length, channels)."""
    return _least(*x.shape, multiprocessors(x.device), ways)


@functools.cache
def _least(batch: int, length: int, channels: int, processors: int, ways: tuple[Costs, ...]) -> Plan:
    """Return the plan whose estimated time is least.

    One segment needs no first phase; more of them fill the multiprocessors where rows alone do not.
    """
    chunks = max(1, -(-length // CHUNK))
    rows = batch * -(-channels // 64)

    def cost(way: Costs, segments: int) -> float:
        full, rest = divmod(rows * segments, int(processors * way.places))
        waves = full * (way.latency + way.work * way.places)
        if rest:
            waves += way.latency + way.work * -(-rest // processors)
        first_phase = way.first_phase * (segments - 1) / segments
        return waves * (1 + first_phase) * (-(-chunks // segments) + way.overhead)

    most = min(chunks, -(-64 * processors // rows))
    numbers = sorted({*range(1, min(most, 16) + 1), *(max(1, most * k // 32) for k in range(1, 33))})
    way, segments = min(((way, n) for way in ways for n in numbers), key=lambda option: cost(*option))
    return Plan(way.per, segments)
