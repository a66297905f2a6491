"""Pictures of what a model of waveforms has learnt, as PNG files that are whole or absent."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from audio.likelihood import Likelihood
from pipelines.pictures import save


def draw_positions(measured: Mapping[str, Likelihood], picture: Path) -> None:
    """Bits per sample against the position in the window, a line a likelihood."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="samples before it, and itself", ylabel="held-out bits per sample")
    axes.set_xscale("log", base=2)
    for name, one in measured.items():
        rows = one.rows()
        middles = [(row["first"] * row["last"]) ** 0.5 for row in rows]
        bits = [row["bits_per_sample"] for row in rows]
        (line,) = axes.plot(middles, bits, marker="o", markersize=3, label=name)
        axes.axhline(one.bits, color=line.get_color(), linewidth=0.8, linestyle="dashed")
    axes.legend(title="dashed: the mean")
    save(figure, picture)
