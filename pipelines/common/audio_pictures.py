"""Pictures of what a model of waveforms has learnt, as PNG files that are whole or absent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from audio.evaluation.likelihood import Likelihood
from core.plots import save_figure


def draw_positions(measured: Mapping[str, Likelihood], picture: Path) -> None:
    """Bits per sample against the position in the window, a line a likelihood."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="position in the window, samples", ylabel="held-out bits per sample")
    axes.set_xscale("log", base=2)
    for name, one in measured.items():
        rows = one.rows()
        middles = [(row["first"] * row["last"]) ** 0.5 for row in rows]
        bits = [row["bits_per_sample"] for row in rows]
        (line,) = axes.plot(middles, bits, marker="o", markersize=3, label=name)
        axes.axhline(one.bits, color=line.get_color(), linewidth=0.8, linestyle="dashed")
    axes.legend(title="dashed: the mean")
    save_figure(figure, picture)


def draw_lengths(rows: Sequence[Mapping[str, Any]], scored: int, picture: Path) -> None:
    """Bits of the same samples against the length of the sequence that they end."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="samples in a sequence", ylabel=f"bits per sample of its last {scored:,} samples"
    )
    axes.set_xscale("log", base=2)
    axes.plot([row["length"] for row in rows], [row["bits_per_sample"] for row in rows], marker="o")
    axes.grid(linewidth=0.4)
    save_figure(figure, picture)


def draw_bits(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Held-out bits of each row of audio_compare, a panel a table, a point a seed."""
    tables = list(dict.fromkeys(row["table"] for row in rows))
    figure = Figure(figsize=(4.5 * len(tables), 4.5), layout="constrained")
    for index, table in enumerate(tables):
        of_table = [row for row in rows if row["table"] == table]
        axes = figure.add_subplot(
            1, len(tables), index + 1, title=f"{table} (lower is better)", ylabel="test bits per sample"
        )
        names = list(dict.fromkeys(row["model"] for row in of_table))
        axes.plot([row["model"] for row in of_table], [row["nll_bits"] for row in of_table], "o")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.margins(0.1)
        axes.grid(axis="y", linewidth=0.4)
    save_figure(figure, picture)
