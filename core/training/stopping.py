"""Early ends of a run: a signal, or losses that are not finite."""

import signal
from types import FrameType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """The run stopped on request, after a checkpoint."""


class NonFiniteError(ValueError):
    """Too many consecutive steps, or a validation, without a finite loss and gradient."""


class StopRequest:
    """Handler of SIGINT and SIGTERM: the first signal sets `is_requested`, the second acts as usual."""

    def __init__(self) -> None:
        self.is_requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        self.is_requested = True
        signal.signal(number, self._previous[number])
