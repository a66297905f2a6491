"""Batches arrive in order, once each, two steps ahead."""

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


def test_each_step_once_in_order_with_the_rows_asked_for() -> None:
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


def test_the_next_batches_are_fetched_while_this_one_is_used() -> None:
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


def test_what_was_not_begun_is_not_fetched_after_a_stop() -> None:
    asked, may_go_on = [], threading.Event()

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        if step == 1:
            may_go_on.wait(timeout=10.0)
        return torch.zeros(1), torch.zeros(1)

    stream = prefetch(batches, range(9), two_rows, CPU)
    next(stream)
    threading.Timer(0.1, may_go_on.set).start()
    stream.close()
    assert asked == [0, 1]


def test_waiting_is_measured() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.05)
        return torch.zeros(1), torch.zeros(1)

    assert all(waited > 0.04 for _, waited in prefetch(batches, range(2), two_rows, CPU))


def test_an_error_in_the_data_comes_out_as_it_is() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        raise ValueError("record chr7 is empty")

    with pytest.raises(ValueError, match="chr7"):
        next(prefetch(batches, range(2), two_rows, CPU))


@given(rows=st.integers(1, 99), length=st.integers(1, 99), tokens=st.none() | st.integers(1, 999))
def test_rows_at_once_are_as_many_as_the_tokens_allow(rows: int, length: int, tokens: int | None) -> None:
    chosen = rows_per_pass(rows, length, tokens)
    assert 1 <= chosen <= rows
    assert tokens is None or chosen == 1 or chosen * length <= tokens
    assert chosen == rows or (tokens is not None and (chosen + 1) * length > tokens)
