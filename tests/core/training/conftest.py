"""Run toy models on one CPU thread: two threads mostly wait for each other."""

from collections.abc import Iterator

import pytest
import torch

import core.training.distributed
from tests.core.training.toy import CPU


@pytest.fixture(autouse=True)
def one_cpu_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(core.training.distributed, "_device", lambda _: CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
