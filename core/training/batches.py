"""Batches as a function of the step, fetched while the steps before them compute."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What one step reads, or one process's share of it.

    inputs, targets: integers (rows, length); target -100 is none.
    cu_seqlens: (sequences + 1,) int32, rising from 0 to the length, where a single row packs sequences.
    """

    inputs: Tensor
    targets: Tensor
    cu_seqlens: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch of what a function makes of each of its tensors."""
        bounds = None if self.cu_seqlens is None else function(self.cu_seqlens)
        return Batch(function(self.inputs), function(self.targets), bounds)


Batches = Callable[[int, range], tuple[Tensor, Tensor] | Batch]
"""`batches(step, rows)` gives (inputs, targets), or a Batch, of these rows of that step's global batch.

Steps count from 0, tensors are on the CPU; a packed Batch holds one sequence a row that was asked for. A row
depends on the step and its number only, never on what was asked before: that makes a run the same after a
resume and for any number of processes. Shapes may change from step to step. It is called in a thread of its
own.
"""

FETCHED_AHEAD = 2
"""Batches that wait beside the one in use: one could not hide a step that is shorter than its fetch."""


def prefetch(
    batches: Batches, steps: range, rows: Callable[[int], range], device: torch.device
) -> Generator[tuple[Batch, float], None, None]:
    """For each step its batch, on the device, and the seconds that were spent waiting for it.

    rows: which rows of a step are this process's.
    """

    def fetch(step: int) -> Batch:
        batch = Batch(*batches(step, rows(step)))
        return batch.map(Tensor.pin_memory) if device.type == "cuda" else batch

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        upcoming = deque(pool.submit(fetch, step) for step in steps[:FETCHED_AHEAD])
        for step in steps:
            began = time.perf_counter()
            batch = upcoming.popleft().result().map(lambda tensor: tensor.to(device, non_blocking=True))
            waited = time.perf_counter() - began
            if step + FETCHED_AHEAD in steps:
                upcoming.append(pool.submit(fetch, step + FETCHED_AHEAD))
            yield batch, waited
    finally:
        pool.shutdown(cancel_futures=True)


def micro_batches(batch: Batch, piece: int, tokens: int | None) -> Iterator[Batch]:
    """The batch in parts that run one after the other: of at most `tokens`, one sequence at least.

    piece: the tokens of a row that run at once. Packed sequences are parted where one begins, and run whole.
    """
    if batch.cu_seqlens is None:
        rows = rows_per_pass(len(batch.inputs), piece, tokens)
        for inputs, targets in zip(batch.inputs.split(rows), batch.targets.split(rows), strict=True):
            yield Batch(inputs, targets)
    elif tokens is None:
        yield batch
    else:
        for first, last in pairwise(_cuts(batch.cu_seqlens.tolist(), tokens)):
            bounds = batch.cu_seqlens[first : last + 1]
            part = slice(int(bounds[0]), int(bounds[-1]))
            yield Batch(batch.inputs[:, part], batch.targets[:, part], bounds - bounds[0])


def _cuts(bounds: list[int], tokens: int) -> list[int]:
    """The numbers of the sequences that a part begins with, and how many sequences there are."""
    cuts = [0]
    for sequence, end in enumerate(bounds[1:]):
        if end - bounds[cuts[-1]] > tokens and sequence > cuts[-1]:
            cuts.append(sequence)
    return [*cuts, len(bounds) - 1]


def rows_per_pass(rows: int, length: int, tokens: int | None) -> int:
    """How many of `rows` sequences of `length` make at most `tokens`, one at least; None: all of them."""
    return rows if tokens is None else min(rows, max(1, tokens // length))
