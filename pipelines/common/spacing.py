"""How a part of the held-out windows is chosen."""

import numpy as np
import numpy.typing as npt

from core.spacing import evenly_spaced


def chosen_windows(size: int, count: int | None) -> npt.NDArray[np.int64]:
    """The numbers of at most `count` of so many windows, spread evenly; all for None.

    Raises ValueError for a count below 1.
    """
    if count is None or count >= size:
        return np.arange(size)
    if count < 1:
        raise ValueError(f"data.validation_windows is {count}; it must be at least 1, or null for all.")
    return evenly_spaced(size, count)
