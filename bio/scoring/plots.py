"""Pictures of what a DNA model has learnt, as PNG files that are whole or absent."""

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

EXTREMES = 5
GUESS = 2.0
FEWEST_BASES = 1000

Rows = Sequence[Mapping[str, Any]]
"""Finished runs of dna_scaling, with model, parameters, length and perplexity."""


def draw_bits(bits: Mapping[str, float], picture: Path) -> None:
    """Bars from a guess, which costs 2 bits, to each model's held-out bits per base; the best in orange."""
    names, values = list(bits), np.array(list(bits.values()))
    colours = ["tab:orange" if value == values.min() else "tab:blue" for value in values]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(ylabel="held-out bits per base", title="Lower is better")
    bars = axes.bar(names, values - GUESS, bottom=GUESS, color=colours)
    axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=2, fontsize=8)
    axes.axhline(GUESS, color="grey", linewidth=0.8)
    axes.margins(y=0.1)
    axes.tick_params(axis="x", labelrotation=30)
    save_figure(figure, picture)


def draw_spectra(held_out: Spectrum, generated: Spectrum, k: int, picture: Path) -> None:
    """Each k-mer's share in generated against held-out sequence; those furthest apart carry their names."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel=f"share of each {k}-mer in held-out DNA", ylabel="in generated DNA")
    axes.scatter(held_out, generated, s=12, alpha=0.6)
    reach = [0.0, max(held_out.max(), generated.max()) * 1.05]
    axes.plot(reach, reach, color="grey", linewidth=0.8)
    names = kmer_names(k)
    for index in np.argsort(np.abs(generated - held_out))[-EXTREMES:]:
        axes.annotate(names[index], (held_out[index], generated[index]), fontsize=8)
    axes.set(xlim=reach, ylim=reach)
    save_figure(figure, picture)


def draw_context(tables: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Bits per base against how many bases of its window a base has before it, a line a table.

    The tables are those of dna_validation, of one held-out sequence. Bins of few bases, which long windows
    have at their beginning, are left out where there are others; the mean of a single table is dashed.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="bases of context", ylabel="held-out bits per base")
    axes.set_xscale("log", base=2)
    for name, table in tables.items():
        rows = table["by_context"]
        rows = [row for row in rows if row["bases"] >= FEWEST_BASES] or rows
        middles = [(row["least_context"] * row["most_context"]) ** 0.5 for row in rows]
        bits = [row["bits_per_base"] for row in rows]
        (line,) = axes.plot(middles, bits, marker="o", markersize=3, label=name)
        if len(tables) == 1:
            mean = table["parts"]["all"]["bits_per_base"]
            axes.axhline(mean, color=line.get_color(), linewidth=0.8, linestyle="dashed", label="its mean")
    if markov := [row for table in tables.values() for row in table["markov"]]:
        best = min(markov, key=lambda row: row["bits_per_base"])
        name = f"Markov model of order {best['order']}"
        axes.axhline(best["bits_per_base"], color="grey", linewidth=0.8, linestyle="dotted", label=name)
    axes.legend(fontsize=8)
    save_figure(figure, picture)


def draw_by_parameters(rows: Rows, laws: Mapping[int, PowerLaw], picture: Path) -> None:
    """Perplexity against parameters, a line a length, with its power law (the paper's figure 5, left)."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="parameters", ylabel="held-out perplexity", xscale="log", yscale="log")
    for length, of_length in _grouped(rows, "length").items():
        parameters = [row["parameters"] for row in of_length]
        points = axes.plot(
            parameters, [row["perplexity"] for row in of_length], "o", label=f"{length:,} bases"
        )
        if length in laws:
            reach = np.geomspace(min(parameters), max(parameters))
            fitted = np.exp([laws[length].at(value) for value in reach])
            axes.plot(reach, fitted, color=points[0].get_color(), linewidth=0.8)
    _plain_ticks(axes)
    axes.legend(title="windows of")
    save_figure(figure, picture)


def draw_by_length(rows: Rows, picture: Path) -> None:
    """Perplexity against the length of windows, a line a size (the paper's figure 5, right)."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="bases in a window", ylabel="held-out perplexity", yscale="log")
    axes.set_xscale("log", base=2)
    for size, of_size in _grouped(rows, "model").items():
        lengths = [row["length"] for row in of_size]
        axes.plot(lengths, [row["perplexity"] for row in of_size], marker="o", label=size)
    _plain_ticks(axes)
    figure.legend(title="parameters", loc="outside right upper")
    save_figure(figure, picture)


def _grouped(rows: Rows, key: str) -> dict[Any, Rows]:
    """The rows of each value of a key, in the order of the rows."""
    return {
        value: [row for row in rows if row[key] == value] for value in dict.fromkeys(r[key] for r in rows)
    }


def _plain_ticks(axes: Axes) -> None:
    """Perplexities as 2.9 and 3.0, where a logarithmic axis has powers of ten."""
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks(ScalarFormatter())
