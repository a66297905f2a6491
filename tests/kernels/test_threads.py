"""Ranges over threads: each item once, in parallel, with exceptions, and after a fork."""

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.threads import run_in_ranges


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def _count(count: int, fewest: int = 1) -> list[int]:
    visits = [0] * count

    def visit(first: int, last: int) -> None:
        assert last - first >= min(fewest, count)
        for index in range(first, last):
            visits[index] += 1

    run_in_ranges(visit, count, fewest)
    return visits


@given(count=st.integers(0, 40), fewest=st.integers(1, 20))
def test_visits_each_item_once(count: int, fewest: int) -> None:
    assert _count(count, fewest) == [1] * count


def test_ranges_run_at_once() -> None:
    meeting = threading.Barrier(3, timeout=60)
    names = []

    def meet(first: int, last: int) -> None:
        meeting.wait()
        names.append(threading.current_thread().name)

    run_in_ranges(meet, 3)
    assert len(set(names)) == 3
    assert threading.current_thread().name in names


@pytest.mark.parametrize("failing", [0, 2])
def test_raises_the_exception_of_a_range_after_all_end(failing: int) -> None:
    done = []

    def fail(first: int, last: int) -> None:
        done.append(first)
        if first == failing:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        run_in_ranges(fail, 3)
    assert sorted(done) == [0, 1, 2]


def test_works_in_a_forked_child() -> None:
    assert _count(5) == [1] * 5
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_count, (5,)) == [1] * 5
