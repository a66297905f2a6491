"""Batches arrive in order, once each, and are prefetched."""

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.training.batches import PREFETCH_DEPTH, prefetch, rows_per_pass
from tests.core.training.toy import CPU


def two_rows(step: int) -> range:
    return range(2)


def test_prefetch_yields_each_step_once_in_order() -> None:
    asked: list[tuple[int, range]] = []

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((step, rows))
        return torch.tensor([step]), torch.tensor([-step])

    stream = prefetch(batches, range(3, 7), range, CPU)
    got = [(int(batch.inputs), int(batch.targets)) for batch, _ in stream]
    assert got == [(3, -3), (4, -4), (5, -5), (6, -6)]
    assert asked == [(step, range(step)) for step in range(3, 7)]
    assert list(prefetch(batches, range(3, 3), two_rows, CPU)) == []
    assert [int(batch.inputs) for batch, _ in prefetch(batches, range(3, 4), two_rows, CPU)] == [3]


def test_next_batches_are_fetched_during_a_step() -> None:
    last_is_asked, asked = threading.Event(), []

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        if step == PREFETCH_DEPTH:
            last_is_asked.set()
        return torch.zeros(1), torch.zeros(1)

    stream = prefetch(batches, range(PREFETCH_DEPTH + 5), two_rows, CPU)
    next(stream)
    assert last_is_asked.wait(timeout=10.0)
    time.sleep(0.02)
    assert asked == list(range(PREFETCH_DEPTH + 1))
    stream.close()


def test_closing_the_stream_cancels_pending_fetches() -> None:
    asked, is_next_running, may_go_on = [], threading.Event(), threading.Event()

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        if step == 1:
            is_next_running.set()
            may_go_on.wait(timeout=10.0)
        return torch.zeros(1), torch.zeros(1)

    stream = prefetch(batches, range(9), two_rows, CPU)
    next(stream)
    assert is_next_running.wait(timeout=10.0)
    threading.Timer(0.1, may_go_on.set).start()
    stream.close()
    assert asked == [0, 1]


def test_wait_time_is_measured() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.05)
        return torch.zeros(1), torch.zeros(1)

    assert all(waited > 0.04 for _, waited in prefetch(batches, range(2), two_rows, CPU))


def test_data_errors_propagate() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        raise ValueError("record chr7 is empty")

    with pytest.raises(ValueError, match="chr7"):
        next(prefetch(batches, range(2), two_rows, CPU))


@given(rows=st.integers(1, 99), length=st.integers(1, 99), tokens=st.none() | st.integers(1, 999))
def test_rows_per_pass_fills_the_token_limit(rows: int, length: int, tokens: int | None) -> None:
    fitting = rows_per_pass(rows, length, tokens)
    assert 1 <= fitting <= rows
    assert tokens is None or fitting == 1 or fitting * length <= tokens
    assert fitting == rows or (tokens is not None and (fitting + 1) * length > tokens)
