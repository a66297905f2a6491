"""What ends a run before its last step: a signal, or losses that are not finite."""

import signal
from types import FrameType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """The run was stopped on request, after a checkpoint."""


class NonFiniteError(ValueError):
    """Too many steps in a row had no finite loss and gradient."""


class StopRequest:
    """While entered, the first SIGINT and SIGTERM only set `requested`; a second one acts as ever."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])
