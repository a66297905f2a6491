"""Bootstrap intervals of metrics: how much a number would vary with other clips from the same source."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.random import random_uniform

NORMAL_95 = 1.959964


class Interval(NamedTuple):
    """A value and its 95 % interval; low and high are None where nothing was resampled."""

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap(
    metrics: Callable[[Tensor], Mapping[str, float]], count: int, resamples: int, seed: int
) -> dict[str, Interval]:
    """The metrics of all clips, with 95 % intervals from resamples of them (Efron 1979).

    metrics: maps the numbers of clips (count,) int64 to values by name. resamples: how often clips are drawn
    with replacement; 0 leaves the intervals out. Resample k of a seed is the same whatever their number.
    The interval is the value +- 1.96 standard deviations over the resamples, not their quantiles: a Frechet
    distance grows with repeated clips, so that the quantiles would lie beside the value.
    """
    whole = metrics(torch.arange(count))
    if not resamples:
        return {name: Interval(value) for name, value in whole.items()}
    drawn = [metrics(resampled(count, seed, number)) for number in range(resamples)]
    return {name: _interval(value, [values[name] for values in drawn]) for name, value in whole.items()}


def resampled(count: int, seed: int, number: int) -> Tensor:
    """The numbers (count,) int64 of the clips in resample `number`, drawn with replacement."""
    return torch.from_numpy((random_uniform(seed, number, np.arange(count)) * count).astype(np.int64))


def _interval(value: float, drawn: list[float]) -> Interval:
    if len(drawn) < 2 or not np.isfinite([value, *drawn]).all():
        return Interval(value)
    reach = NORMAL_95 * float(np.std(drawn, ddof=1))
    return Interval(value, value - reach, value + reach)
