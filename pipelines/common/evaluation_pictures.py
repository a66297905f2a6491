"""Pictures of an evaluation: the metrics of its sources side by side, and the classes of their clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from audio.evaluation.report import METRICS, Measurement
from core.plots import save_figure

BETTER = {
    "fid": "lower is better",
    "is": "higher is better",
    "mis": "higher is better",
    "am": "lower is better",
}


def draw_metrics(measured: Sequence[Measurement], picture: Path) -> None:
    """A panel a metric, a point with its 95 % interval for each source and selection."""
    named = {
        one.source.name if name == "all" else f"{one.source.name}, {name}": selection.metrics
        for one in measured
        for name, selection in one.selections.items()
    }
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(named)), layout="constrained")
    places = np.arange(len(named))[::-1]
    panels = figure.subplots(1, len(BETTER), sharey=True)
    for axes, metric in zip(panels, BETTER, strict=True):
        for place, (name, metrics) in zip(places, named.items(), strict=True):
            value, low, high = metrics[metric]
            if not np.isfinite(value):
                continue
            colour = "tab:grey" if name in ("train", "test") else "tab:blue"
            reach = None if low is None or high is None else [[value - low], [high - value]]
            axes.errorbar(value, place, xerr=reach, fmt="o", markersize=4, capsize=3, color=colour)
        axes.set(title=f"{METRICS[metric]}\n{BETTER[metric]}", yticks=places, yticklabels=list(named))
        axes.grid(axis="x", linewidth=0.4)
        axes.margins(x=0.15)
    save_figure(figure, picture)


def draw_shares(measured: Sequence[Measurement], classes: Sequence[str], picture: Path) -> None:
    """The share of each class among the clips of each source, as the classifier hears them."""
    shares = np.array(
        [[one.selections["all"].metrics[f"share_{name}"].value for name in classes] for one in measured]
    )
    figure = Figure(figsize=(0.7 * len(classes) + 3, 0.45 * len(measured) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=max(0.3, float(shares.max())))
    axes.set_xticks(range(len(classes)), classes, rotation=30)
    axes.set_yticks(range(len(measured)), [one.source.name for one in measured])
    for row, column in np.ndindex(shares.shape):
        is_dark = shares[row, column] > 0.6 * image.get_clim()[1]
        text = f"{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if is_dark else "k")
    axes.set_title("share of each class, as the classifier hears it")
    save_figure(figure, picture)
