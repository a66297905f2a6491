"""Plots of DNA results: bits per base, k-mer spectra, context, and scaling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from bio.scoring.kmer import Spectrum, kmer_names
from bio.scoring.scaling import PowerLaw
from core.plots import save_figure

ANNOTATED_KMERS = 5
UNIFORM_BITS = 2.0
MIN_BASES = 1000

Rows = Sequence[Mapping[str, Any]]
"""Finished runs of dna_scaling, with model, parameters, length and perplexity."""


def plot_bits(bits: Mapping[str, float], picture: Path) -> None:
    """Plot the held-out bits per base of each model as a bar from 2, the cost of a uniform guess.

    The best model is orange.
    """
    names, values = list(bits), np.array(list(bits.values()))
    colours = ["tab:orange" if value == values.min() else "tab:blue" for value in values]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(ylabel="held-out bits per base", title="Lower is better")
    bars = axes.bar(names, values - UNIFORM_BITS, bottom=UNIFORM_BITS, color=colours)
    axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=2, fontsize=8)
    axes.axhline(UNIFORM_BITS, color="grey", linewidth=0.8)
    axes.margins(y=0.1)
    axes.tick_params(axis="x", labelrotation=30)
    save_figure(figure, picture)


def plot_spectra(held_out: Spectrum, generated: Spectrum, k: int, picture: Path) -> None:
    """Plot the frequency of each k-mer in generated against held-out DNA; label the largest differences."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{k}-mer frequency in held-out DNA", ylabel="in generated DNA")
    axes.scatter(held_out, generated, s=12, alpha=0.6)
    limits = [0.0, max(held_out.max(), generated.max()) * 1.05]
    axes.plot(limits, limits, color="grey", linewidth=0.8)
    names = kmer_names(k)
    for index in np.argsort(np.abs(generated - held_out))[-ANNOTATED_KMERS:]:
        axes.annotate(names[index], (held_out[index], generated[index]), fontsize=8)
    axes.set(xlim=limits, ylim=limits)
    save_figure(figure, picture)


def plot_context(tables: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Plot bits per base against bases of context, one line per validation table of the same held-out bases.

    Bins of few bases, which long windows have at their start, are left out if there are others. The mean of a
    single table is dashed.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="context (bases)", ylabel="held-out bits per base")
    axes.set_xscale("log", base=2)
    for name, table in tables.items():
        rows = table["by_context"]
        rows = [row for row in rows if row["bases"] >= MIN_BASES] or rows
        middles = [(row["least_context"] * row["most_context"]) ** 0.5 for row in rows]
        bits = [row["bits_per_base"] for row in rows]
        (line,) = axes.plot(middles, bits, marker="o", markersize=3, label=name)
        if len(tables) == 1:
            mean = table["parts"]["all"]["bits_per_base"]
            axes.axhline(mean, color=line.get_color(), linewidth=0.8, linestyle="dashed", label="mean")
    if markov := [row for table in tables.values() for row in table["markov"]]:
        best = min(markov, key=lambda row: row["bits_per_base"])
        name = f"Markov model of order {best['order']}"
        axes.axhline(best["bits_per_base"], color="grey", linewidth=0.8, linestyle="dotted", label=name)
    axes.legend(fontsize=8)
    save_figure(figure, picture)


def plot_by_parameters(rows: Rows, laws: Mapping[int, PowerLaw], picture: Path) -> None:
    """Plot perplexity against parameters, one line per length, with its power law (paper, figure 5 left)."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="parameters", ylabel="held-out perplexity", xscale="log", yscale="log")
    for length, rows_of_length in _group(rows, "length").items():
        parameters = [row["parameters"] for row in rows_of_length]
        perplexity = [row["perplexity"] for row in rows_of_length]
        points = axes.plot(parameters, perplexity, "o", label=f"{length:,} bases")
        if length in laws:
            grid = np.geomspace(min(parameters), max(parameters))
            curve = np.exp([laws[length].loss(value) for value in grid])
            axes.plot(grid, curve, color=points[0].get_color(), linewidth=0.8)
    _use_plain_ticks(axes)
    axes.legend(title="window length")
    save_figure(figure, picture)


def plot_by_length(rows: Rows, picture: Path) -> None:
    """Plot perplexity against window length, one line per model size (paper, figure 5 right)."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="window length (bases)", ylabel="held-out perplexity", yscale="log")
    axes.set_xscale("log", base=2)
    for size, rows_of_size in _group(rows, "model").items():
        lengths = [row["length"] for row in rows_of_size]
        axes.plot(lengths, [row["perplexity"] for row in rows_of_size], marker="o", label=size)
    _use_plain_ticks(axes)
    figure.legend(title="parameters", loc="outside right upper")
    save_figure(figure, picture)


def _group(rows: Rows, key: str) -> dict[Any, Rows]:
    """Return the rows by their value of a key, in order of first appearance."""
    values = dict.fromkeys(row[key] for row in rows)
    return {value: [row for row in rows if row[key] == value] for value in values}


def _use_plain_ticks(axes: Axes) -> None:
    """Label the y axis with 2.9 and 3.0 instead of powers of ten."""
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(ScalarFormatter())
