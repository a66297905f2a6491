"""Batches as a function of the step, prefetched while earlier steps run."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Input of one step on one rank.

    inputs, targets: integers (rows, length); target -100 is ignored.
    cu_seqlens: (sequences + 1,) int32, offsets from 0 to the length, if a single row packs sequences.
    """

    inputs: Tensor
    targets: Tensor
    cu_seqlens: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to each tensor."""
        bounds = None if self.cu_seqlens is None else function(self.cu_seqlens)
        return Batch(function(self.inputs), function(self.targets), bounds)


Batches = Callable[[int, range], tuple[Tensor, Tensor] | Batch]
"""`batches(step, rows)` returns (inputs, targets) or a Batch: these rows of the global batch of a step.

Steps count from 0, tensors are on the CPU, a packed Batch holds one sequence per row of `rows`. A row depends
only on the step and its number, never on earlier calls: a run is the same after a resume and for any world
size. Shapes may change from step to step. Batches are called in a background thread.
"""

PREFETCH_DEPTH = 2
"""Batches that wait besides the current one; a single one cannot hide a step shorter than its fetch."""


def prefetch(
    batches: Batches, steps: range, rows: Callable[[int], range], device: torch.device
) -> Generator[tuple[Batch, float], None, None]:
    """Yield for each step its batch on the device and the seconds of waiting for it.

    rows: maps a step to the rows of this rank.
    """

    def fetch(step: int) -> Batch:
        batch = Batch(*batches(step, rows(step)))
        return batch.map(Tensor.pin_memory) if device.type == "cuda" else batch

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        upcoming = deque(pool.submit(fetch, step) for step in steps[:PREFETCH_DEPTH])
        for step in steps:
            start = time.perf_counter()
            batch = upcoming.popleft().result().map(lambda tensor: tensor.to(device, non_blocking=True))
            wait_seconds = time.perf_counter() - start
            if step + PREFETCH_DEPTH in steps:
                upcoming.append(pool.submit(fetch, step + PREFETCH_DEPTH))
            yield batch, wait_seconds
    finally:
        pool.shutdown(cancel_futures=True)


def micro_batches(batch: Batch, segment_length: int, tokens: int | None) -> Iterator[Batch]:
    """Split a batch into micro-batches of at most `tokens`, but at least one sequence.

    segment_length: tokens of a row in one forward pass. Packed sequences are split between sequences only.
    """
    if batch.cu_seqlens is None:
        rows = rows_per_pass(len(batch.inputs), segment_length, tokens)
        for inputs, targets in zip(batch.inputs.split(rows), batch.targets.split(rows), strict=True):
            yield Batch(inputs, targets)
    elif tokens is None:
        yield batch
    else:
        for first, last in pairwise(_packed_cuts(batch.cu_seqlens.tolist(), tokens)):
            bounds = batch.cu_seqlens[first : last + 1]
            span = slice(int(bounds[0]), int(bounds[-1]))
            yield Batch(batch.inputs[:, span], batch.targets[:, span], bounds - bounds[0])


def rows_per_pass(rows: int, length: int, tokens: int | None) -> int:
    """Return how many of `rows` sequences of `length` fit in `tokens`, at least one; None: all."""
    return rows if tokens is None else min(rows, max(1, tokens // length))


def _packed_cuts(bounds: list[int], tokens: int) -> list[int]:
    """Return the first sequence of every micro-batch, and the number of sequences."""
    cuts = [0]
    for sequence, end in enumerate(bounds[1:]):
        if end - bounds[cuts[-1]] > tokens and sequence > cuts[-1]:
            cuts.append(sequence)
    return [*cuts, len(bounds) - 1]
