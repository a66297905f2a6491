"""Batches arrive in order, once each, one step ahead."""

import threading
import time

import pytest
import torch

from core.training.batches import prefetched
from tests.core.training.toy import CPU


def test_each_step_once_in_order_with_the_rows_asked_for() -> None:
    asked: list[tuple[int, range]] = []

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((step, rows))
        return torch.tensor([step]), torch.tensor([-step])

    got = [
        (int(inputs), int(targets)) for inputs, targets, _ in prefetched(batches, range(3, 7), range(2), CPU)
    ]
    assert got == [(3, -3), (4, -4), (5, -5), (6, -6)]
    assert asked == [(step, range(2)) for step in range(3, 7)]
    assert list(prefetched(batches, range(3, 3), range(2), CPU)) == []


def test_the_next_batch_is_fetched_while_this_one_is_used() -> None:
    second_is_asked = threading.Event()

    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 1:
            second_is_asked.set()
        return torch.zeros(1), torch.zeros(1)

    stream = prefetched(batches, range(3), range(1), CPU)
    next(stream)
    assert second_is_asked.wait(timeout=10.0)
    stream.close()


def test_waiting_is_measured() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.05)
        return torch.zeros(1), torch.zeros(1)

    assert all(waited > 0.04 for _, _, waited in prefetched(batches, range(2), range(1), CPU))


def test_an_error_in_the_data_comes_out_as_it_is() -> None:
    def batches(step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        raise ValueError("record chr7 is empty")

    with pytest.raises(ValueError, match="chr7"):
        next(prefetched(batches, range(2), range(1), CPU))
