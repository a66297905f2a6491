"""Threads for compiled kernels that release the GIL: as many as torch uses, safe after a fork."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch


def run_in_ranges(function: Callable[[int, int], object], count: int, fewest: int = 1) -> None:
    """Call `function(first, last)` on ranges that cover [0, count), one range per thread, and wait for all.

    Each range has at least `fewest` items, so that the calling thread does a small job alone. A range must
    not touch data that another range writes.

    Raises the first exception of a range, after all ranges have ended.
    """
    ranges = max(1, min(torch.get_num_threads(), count // fewest))
    if ranges == 1:
        function(0, count)
        return
    bounds = [count * index // ranges for index in range(ranges + 1)]
    futures = [
        _pool(os.getpid(), ranges - 1).submit(function, bounds[index], bounds[index + 1])
        for index in range(1, ranges)
    ]
    try:
        function(bounds[0], bounds[1])
    finally:
        wait(futures)
    for future in futures:
        future.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the pool of a process. A forked child inherits the object of its parent, but no threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
