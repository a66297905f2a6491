"""Shapes, tuning and work division of the Triton scan: arithmetic on the shapes, never a trial run.

Time is cut into segments that run in parallel where rows alone do not fill the GPU. A segment is a whole
number of chunks; a checkpoint lies at the start of each chunk.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, overload

import torch
import triton
from torch import Tensor

from kernels.layout import multiprocessors
from kernels.selective_scan.arguments import ScanArguments


class Tuning(NamedTuple):
    """Tuned numbers of one pass."""

    reals: int  # reals of a tile; 512 take 16 registers per thread for each tile held
    programs: int  # programs (one warp each) that keep a multiprocessor busy
    segment_cost: float  # time of a scan in segments over that of a single segment, without parallelism
    block: int = 1  # positions whose states the backward holds in registers together
    registers: int | None = None  # limit per thread: `programs` warps share 65,536 per multiprocessor


# Found by timing the shapes of `python -m kernels.benchmarks` on one NVIDIA H200. On another GPU the work is
# divided by its own number of multiprocessors; every NVIDIA GPU since 2014 has 65,536 registers on each.
CHUNK = 64  # positions between checkpoints
FORWARD = Tuning(reals=512, programs=12, segment_cost=1.6)
BACKWARD = Tuning(reals=512, programs=12, segment_cost=1.2, block=4, registers=168)
PASS_REALS = 128  # reals of a tile where states pass between segments: few, because programs are few
SPLIT_COST = 1 / 16  # extra time of the backward for each partial sum of dB and dC


@dataclass(frozen=True)
class Spec:
    """Compile-time constants of a kernel. A number is one real, or two where A is complex."""

    channels: int
    groups: int
    states: int
    is_complex: bool
    constant_b: bool  # B is (channels, states) instead of (batch, length, groups, states)
    constant_c: bool
    softplus: bool
    reverse: bool
    width: int  # channels of a tile
    chunk: int
    block: int  # see `Tuning`

    @property
    def parts(self) -> int:
        """Return the reals of a number."""
        return 2 if self.is_complex else 1

    @property
    def size(self) -> int:
        """Return the states of a tile, padded to a power of 2."""
        return triton.next_power_of_2(self.states)

    @property
    def group_channels(self) -> int:
        """Return the channels of a group."""
        return self.channels // self.groups

    @property
    def group_tiles(self) -> int:
        """Return the tiles of a group."""
        return -(-self.group_channels // self.width)

    @property
    def tiles(self) -> int:
        """Return the tiles of all channels."""
        return self.group_tiles * self.groups


class Plan(NamedTuple):
    """Division of a pass over programs."""

    spec: Spec
    segment_length: int  # positions
    segments: int  # of each row of the batch
    splits: int  # partial sums of dB and dC for each row and group; 1 in the forward
    items: int  # units of work: (row, segment, tile), or (row, segment, group, split) in the backward
    programs: int


def make_spec(arguments: ScanArguments, tuning: Tuning) -> Spec:
    """Return the constants of a kernel for arguments whose B and C have common groups."""
    channels, states = arguments.A.shape
    parts, groups = arguments.parts, arguments.groups
    width = max(tuning.reals // (triton.next_power_of_2(states) * parts), 4 // parts)
    return Spec(
        channels=channels,
        groups=groups,
        states=states,
        is_complex=arguments.A.is_complex(),
        constant_b=arguments.has_constant_b,
        constant_c=arguments.has_constant_c,
        softplus=arguments.dt_softplus,
        reverse=arguments.reverse,
        width=min(width, triton.next_power_of_2(channels // groups), 64),
        chunk=CHUNK,
        block=tuning.block,
    )


def plan_forward(arguments: ScanArguments) -> Plan:
    """Return the plan of the forward."""
    batch, length, _ = arguments.x.shape
    spec = make_spec(arguments, FORWARD)
    chunks = triton.cdiv(length, spec.chunk)
    programs = FORWARD.programs * multiprocessors(arguments.x.device)
    segment_length = spec.chunk * split_chunks(chunks, batch * spec.tiles, programs, FORWARD.segment_cost)
    segments = triton.cdiv(length, segment_length)
    items = batch * segments * spec.tiles
    return Plan(spec, segment_length, segments, splits=1, items=items, programs=items)


def plan_backward(arguments: ScanArguments) -> Plan:
    """Return the plan of the backward, whose programs take several items each."""
    x = arguments.x
    batch, length, channels = x.shape
    spec = make_spec(arguments, BACKWARD)
    chunks = triton.cdiv(length, spec.chunk)
    programs = BACKWARD.programs * multiprocessors(x.device)
    # The fp32 partial sums of B and C together take at most half the memory of x.
    max_splits = max(1, channels * x.element_size() // (16 * spec.groups * spec.states * spec.parts))
    if spec.constant_b and spec.constant_c:
        max_splits = spec.group_tiles
    rows = batch * spec.groups
    splits = split_tiles(spec.group_tiles, chunks, rows, programs, max_splits)
    segment_length = spec.chunk * split_chunks(chunks, rows * splits, programs, BACKWARD.segment_cost)
    segments = triton.cdiv(length, segment_length)
    items = batch * segments * spec.groups * splits
    return Plan(spec, segment_length, segments, splits, items, min(programs, items))


def walk_time(segment: int, chunks: int, rows: int, programs: int, cost: float) -> float:
    """Return the estimated time of a pass, in chunks that one program walks.

    `rows` walk through `chunks`, cut in segments of `segment` chunks. `programs` run in parallel at full
    speed. Segments cost `cost` times as much work as a single one.
    """
    segments = -(-chunks // segment)
    return -(-rows * segments // programs) * segment * (cost if segments > 1 else 1.0)


@lru_cache
def split_chunks(chunks: int, rows: int, programs: int, cost: float) -> int:
    """Return the number of chunks of a segment that minimizes `walk_time`."""
    counts = [waves * programs // rows for waves in range(1, 5)]
    lengths = [chunks] + [-(-chunks // count) for count in counts if count > 1]
    return min(lengths, key=lambda segment: walk_time(segment, chunks, rows, programs, cost))


@lru_cache
def split_tiles(tiles: int, chunks: int, rows: int, programs: int, max_splits: int) -> int:
    """Return the number of partial sums, at most `max_splits`, for the tiles of a row: the fastest one."""

    def time(splits: int) -> float:
        cost = BACKWARD.segment_cost
        segment = split_chunks(chunks, rows * splits, programs, cost)
        walk = -(-tiles // splits) * walk_time(segment, chunks, rows * splits, programs, cost)
        return walk * (1 + splits * SPLIT_COST)

    return min(range(1, min(max_splits, tiles) + 1), key=time)


@overload
def as_real(tensor: Tensor) -> Tensor: ...
@overload
def as_real(tensor: None) -> None: ...
def as_real(tensor: Tensor | None) -> Tensor | None:
    """Return a complex tensor as (..., 2) reals, any other tensor or None unchanged."""
    return torch.view_as_real(tensor) if tensor is not None and tensor.is_complex() else tensor
