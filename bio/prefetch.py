"""Reading ahead: batches are made by background threads while the device works on the last one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(
    read: Callable[[int], Batch], steps: Iterable[int], ahead: int = 2, workers: int = 1
) -> Iterator[Batch]:
    """read(step) for each of `steps`, in their order, `ahead` of them read in advance by `workers` threads.

    A run resumes by starting `steps` where it stopped. An error of `read` is raised where its batch was due.
    """
    remaining = iter(steps)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        due: deque[Future[Batch]] = deque(executor.submit(read, step) for step in islice(remaining, ahead))
        while due:
            batch = due.popleft().result()
            due.extend(executor.submit(read, step) for step in islice(remaining, 1))
            yield batch
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
