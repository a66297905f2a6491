"""Bootstrap intervals of metrics: their variation over other clips of the same source."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.random import random_uniform

NORMAL_95 = 1.959964


class Estimate(NamedTuple):
    """Value of a metric and its 95 % interval; low and high are None without resamples."""

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap(
    metrics: Callable[[Tensor], Mapping[str, float]], count: int, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Compute metrics of all clips, with 95 % intervals from resamples of the clips (Efron 1979).

    metrics: maps clip indices (n,) int64 to values by name. resamples: number of draws with replacement; 0
    leaves out the intervals. Resample k of a seed does not depend on the number of resamples.
    The interval is the value +- 1.96 standard deviations over the resamples. Quantiles are not used: a
    Frechet distance grows with repeated clips, so its quantiles would not contain the value.
    """
    values = metrics(torch.arange(count))
    if not resamples:
        return {name: Estimate(value) for name, value in values.items()}
    replicates = [metrics(resample_indices(count, seed, number)) for number in range(resamples)]
    return {
        name: _estimate(value, [replicate[name] for replicate in replicates])
        for name, value in values.items()
    }


def resample_indices(count: int, seed: int, number: int) -> Tensor:
    """Draw the clip indices (count,) int64 of resample `number`, with replacement."""
    return torch.from_numpy((random_uniform(seed, number, np.arange(count)) * count).astype(np.int64))


def _estimate(value: float, replicates: list[float]) -> Estimate:
    if len(replicates) < 2 or not np.isfinite([value, *replicates]).all():
        return Estimate(value)
    half_width = NORMAL_95 * float(np.std(replicates, ddof=1))
    return Estimate(value, value - half_width, value + half_width)
