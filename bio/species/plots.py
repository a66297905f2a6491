"""Plots of species classification: confusion matrix, accuracy by window length, principal components."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from core.plots import save_figure


def draw_confusion(counts: Sequence[Sequence[int]], names: Sequence[str], picture: Path) -> None:
    """Draw the confusion matrix: a row per true species, its windows as shares per predicted species."""
    matrix = np.asarray(counts, float)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    size = 2.5 + 0.7 * len(names)
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted species", ylabel="true species")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="fraction of the windows of the true species")
    save_figure(figure, picture)


def draw_accuracy_by_length(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], chances: Iterable[float], picture: Path
) -> None:
    """Draw accuracy with its 95 % interval against window length, one line per model, and chance in grey."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="window length (bases)", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xscale("log", base=2)
    for name, model_rows in rows.items():
        values = np.array([(row["accuracy"], row["low"], row["high"]) for row in model_rows]).T
        lengths = [row["length"] for row in model_rows]
        errors = np.maximum(0, [values[0] - values[1], values[2] - values[0]])
        axes.errorbar(lengths, values[0], errors, marker="o", capsize=3, label=name)
    for number, chance in enumerate(sorted(set(chances))):
        style = ("solid", "dashed", "dotted")[number % 3]
        axes.axhline(chance, color="grey", linewidth=0.8, linestyle=style, label=f"chance ({chance:.0%})")
    figure.legend(loc="outside right upper")
    save_figure(figure, picture)


def draw_components(points: npt.NDArray[np.floating], groups: Sequence[str], picture: Path) -> None:
    """Draw points (n, 2) of a principal component analysis, one colour per group."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="first principal component", ylabel="second principal component")
    for number, group in enumerate(dict.fromkeys(groups)):
        is_member = np.array([name == group for name in groups])
        axes.scatter(
            points[is_member, 0], points[is_member, 1], s=10, alpha=0.6, color=f"C{number % 10}", label=group
        )
    figure.legend(loc="outside right upper")
    save_figure(figure, picture)
