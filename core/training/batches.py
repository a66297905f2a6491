"""Batches as a function of the step, fetched while the steps before them compute."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Batches = Callable[[int, range], tuple[Tensor, Tensor]]
"""`batches(step, rows)` gives (inputs, targets) of these rows of the global batch of that step (from 0).

Both are integer tensors on the CPU, (rows, length); target -100 is none. A row depends on the step and its
number only, never on what was asked before: that makes a run the same after a resume and for any number of
processes. Shapes may change from step to step. It is called in a thread of its own.
"""

FETCHED_AHEAD = 2
"""Batches that wait beside the one in use: one could not hide a step that is shorter than its fetch."""


def prefetched(
    batches: Batches, steps: range, rows: Callable[[int], range], device: torch.device
) -> Generator[tuple[Tensor, Tensor, float], None, None]:
    """For each step (inputs, targets, seconds that were spent waiting for them), on the device.

    rows: which rows of a step are this process's.
    """

    def fetch(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = batches(step, rows(step))
        return (inputs.pin_memory(), targets.pin_memory()) if device.type == "cuda" else (inputs, targets)

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        upcoming = deque(pool.submit(fetch, step) for step in steps[:FETCHED_AHEAD])
        for step in steps:
            began = time.perf_counter()
            inputs, targets = (tensor.to(device, non_blocking=True) for tensor in upcoming.popleft().result())
            waited = time.perf_counter() - began
            if step + FETCHED_AHEAD in steps:
                upcoming.append(pool.submit(fetch, step + FETCHED_AHEAD))
            yield inputs, targets, waited
    finally:
        pool.shutdown(cancel_futures=True)


def rows_at_once(rows: int, length: int, tokens: int | None) -> int:
    """How many of `rows` sequences of `length` make at most `tokens`, one at least; None: all of them."""
    return rows if tokens is None else min(rows, max(1, tokens // length))
