"""Terminal output of a run: a progress bar and lines above it."""

import sys
from typing import Self

from tqdm import tqdm


class Console:
    """Progress bar over steps on stderr, with the rate in the caller's unit; silent unless `is_visible`."""

    def __init__(self, steps: int, first_step: int, unit: str, is_visible: bool):
        self._unit = unit
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            disable=not is_visible,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]",
        )

    def advance(self, loss: float, rate: float, learning_rate: float) -> None:
        """Advance by one step; `rate` is in units per second, `loss` in nats."""
        postfix = f"{tqdm.format_sizeof(rate)}{self._unit}/s, loss {loss:.4f}, lr {learning_rate:.2e}"
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update()

    def print(self, message: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            self._bar.write(message, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
