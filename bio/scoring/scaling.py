"""Scaling laws: loss against number of parameters, and the table of a sweep over sizes and lengths."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95

Row = dict[str, Any]
"""Run of a sweep: model, parameters, length, learning_rate, loss, ...; results are None after divergence."""


class PowerLaw(NamedTuple):
    """loss = scale * parameters ** -exponent, with a 95% confidence interval low .. high of the exponent.

    low and high are nan for two points, which a line always fits.
    """

    scale: float
    exponent: float
    low: float
    high: float

    def loss(self, parameters: float) -> float:
        """Return the predicted loss."""
        return self.scale * parameters**-self.exponent

    def to_json(self) -> dict[str, float | None]:
        """Return the fields for JSON, with None for nan."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


def fit_power_law(parameters: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit a law by least squares of log loss on log parameters, both (points,).

    The interval is Student's, from the scatter around the line. Raises ValueError for fewer than two
    different numbers of parameters, and for values without a logarithm.
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


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """Return, for each model and length, the row with the lowest loss; none if all runs diverged."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row["model"], row["length"]
        if row["loss"] is not None and (key not in best or row["loss"] < best[key]["loss"]):
            best[key] = row
    return list(best.values())


def power_laws(rows: Sequence[Row]) -> dict[int, PowerLaw]:
    """Return the power law of the loss (nats) for each length with at least two models."""
    laws = {}
    for length in dict.fromkeys(row["length"] for row in rows):
        rows_of_length = [row for row in rows if row["length"] == length]
        if len(rows_of_length) > 1:
            columns = ([row[key] for row in rows_of_length] for key in ("parameters", "loss"))
            laws[length] = fit_power_law(*columns)
    return laws


def results_text(rows: Sequence[Row]) -> str:
    """Return the table and the laws as text; an asterisk marks the best learning rate."""
    best = best_rows(rows)
    header = f"{'model':>6} {'length':>9} {'learning rate':>13} {'bits per base':>13} {'perplexity':>10}"
    lines = [f"{header} {'bases/s':>10} {'waiting':>8} {'GiB':>6}"]
    for row in rows:
        columns = f"{'diverged':>13}"
        if row["loss"] is not None:
            memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}"
            speed = f"{row['tokens_per_s']:>10,.0f} {row['data_wait']:>8.2%} {memory:>6}"
            columns = (
                f"{row['bits_per_base']:>13.4f} {row['perplexity']:>10.4f} {speed}{' *' * (row in best)}"
            )
        lines.append(f"{row['model']:>6} {row['length']:>9,} {row['learning_rate']:>13g} {columns}")
    laws = (_law_text(length, law) for length, law in power_laws(best).items())
    return "\n".join([*lines, *laws, *length_texts(best)])


def length_texts(rows: Sequence[Row]) -> list[str]:
    """Return a sentence on the best length of each model with several lengths, and one on Markov models."""
    texts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        rows_of_model = sorted((row for row in rows if row["model"] == model), key=lambda row: row["length"])
        if len(rows_of_model) > 1:
            shortest, best = rows_of_model[0], min(rows_of_model, key=lambda row: row["bits_per_base"])
            gain = shortest["bits_per_base"] - best["bits_per_base"]
            texts.append(
                f"{model}: windows of {best['length']:,} are best, {best['bits_per_base']:.4f} bits per "
                f"base, {gain:.4f} less than windows of {shortest['length']:,}"
            )
    if markov := [row["markov_bits"] for row in rows if row["markov_bits"] is not None]:
        texts.append(f"best Markov model of the training bases: {min(markov):.4f} bits per base")
    return texts


def _law_text(length: int, law: PowerLaw) -> str:
    interval = "two models give no interval"
    if not math.isnan(law.low):
        interval = f"95% interval of the exponent {-law.high:.4f} to {-law.low:.4f}"
    return f"windows of {length:,}: loss = {law.scale:.4g} * parameters^{-law.exponent:.4f} nats, {interval}"
