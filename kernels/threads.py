"""Threads for compiled kernels that release the interpreter's lock: torch's number of them, safe to fork."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch


def run_in_ranges(function: Callable[[int, int], object], count: int, fewest: int = 1) -> None:
    """Call `function(first, last)` on ranges that together cover [0, count), one a thread, and await them.

    A range has at least `fewest` items, so that little work stays in the calling thread. No range may touch
    what another writes. The first exception of a range is raised again here.
    """
    ranges = max(1, min(torch.get_num_threads(), count // fewest))
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
    """Return the pool of a process: a forked child has its parent's object, but none of its threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
