"""Some of many, spread evenly."""

import numpy as np
import numpy.typing as npt


def evenly_spaced(size: int, count: int) -> npt.NDArray[np.int64]:
    """`count` of the numbers below `size`, from the first to the last; some twice where there are too few."""
    return np.linspace(0, size - 1, count).round().astype(np.int64)
