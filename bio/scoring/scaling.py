"""How a loss falls with the number of parameters."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95


class PowerLaw(NamedTuple):
    """loss = scale * parameters ** -exponent; the true exponent lies in low .. high with 95% confidence.

    low and high are nan for two points, through which a line always goes.
    """

    scale: float
    exponent: float
    low: float
    high: float

    def at(self, parameters: float) -> float:
        """The loss that the law predicts."""
        return self.scale * parameters**-self.exponent


def fit_power_law(parameters: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The law by least squares of log loss on log parameters, both (points,).

    The interval is Student's, from the scatter around the line. Raises ValueError for fewer than two
    different numbers of parameters, and for what has no logarithm.
    """
    if len(set(parameters)) < 2:
        raise ValueError("A power law needs models of at least two different numbers of parameters.")
    if min(*parameters, *losses) <= 0:
        raise ValueError("A power law needs parameters and losses above 0.")
    line = stats.linregress(np.log(parameters), np.log(losses))
    freedom = len(losses) - 2
    margin = line.stderr * stats.t.ppf((1 + CONFIDENCE) / 2, freedom) if freedom else math.nan
    return PowerLaw(
        scale=math.exp(line.intercept),
        exponent=-float(line.slope),
        low=float(-line.slope - margin),
        high=float(-line.slope + margin),
    )
