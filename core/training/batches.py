"""Batches as a function of the step, fetched while the step before them computes."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Batches = Callable[[int, range], tuple[Tensor, Tensor]]
"""`batches(step, rows)` gives (inputs, targets) of these rows of the global batch of that step (from 0).

Both are integer tensors on the CPU whose first axis is the rows; target -100 is none. A row depends on the
step and its number only, never on what was asked before: that makes a run the same after a resume and for any
number of processes. Shapes may change from step to step. It is called in a thread of its own.
"""


def prefetched(
    batches: Batches, steps: range, rows: range, device: torch.device
) -> Generator[tuple[Tensor, Tensor, float], None, None]:
    """For each step (inputs, targets, seconds that were spent waiting for them), on the device."""

    def fetch(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = batches(step, rows)
        return (inputs.pin_memory(), targets.pin_memory()) if device.type == "cuda" else (inputs, targets)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        upcoming = pool.submit(fetch, steps.start) if steps else None
        for step in steps:
            began = time.perf_counter()
            assert upcoming is not None
            inputs, targets = (tensor.to(device, non_blocking=True) for tensor in upcoming.result())
            waited = time.perf_counter() - began
            if step + 1 in steps:
                upcoming = pool.submit(fetch, step + 1)
            yield inputs, targets, waited
