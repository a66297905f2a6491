"""Plots of audio models and their evaluations, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from audio.data.waveform import RATE, read_waveform
from audio.evaluation.likelihood import Likelihood
from audio.evaluation.report import ALL, METRICS, Measurement
from audio.evaluation.sources import CLIP_TABLE, FEATURES, read_clip_table
from audio.listening.pictures import spectrogram
from core.plots import save_figure

DIRECTIONS = {
    "fid": "lower is better",
    "is": "higher is better",
    "mis": "higher is better",
    "am": "lower is better",
}
"""Metrics of the plots, with the direction of better values."""
SPECTROGRAMS_PER_ROW = 4


def draw_metrics(measurements: Sequence[Measurement], path: Path) -> None:
    """Plot one panel per metric, with a point and its 95 % interval for each source and selection."""
    metrics_by_name = {
        measurement.source.name if name == ALL else f"{measurement.source.name}, {name}": selection.metrics
        for measurement in measurements
        for name, selection in measurement.selections.items()
    }
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(metrics_by_name)), layout="constrained")
    heights = np.arange(len(metrics_by_name))[::-1]
    panels = figure.subplots(1, len(DIRECTIONS), sharey=True)
    for axes, metric in zip(panels, DIRECTIONS, strict=True):
        for height, (name, metrics) in zip(heights, metrics_by_name.items(), strict=True):
            value, low, high = metrics[metric]
            if not np.isfinite(value):
                continue
            colour = "tab:grey" if name in ("train", "test") else "tab:blue"
            error = None if low is None or high is None else [[value - low], [high - value]]
            axes.errorbar(value, height, xerr=error, fmt="o", markersize=4, capsize=3, color=colour)
        axes.set(title=f"{METRICS[metric]}\n{DIRECTIONS[metric]}")
        axes.set_yticks(heights, list(metrics_by_name))
        axes.grid(axis="x", linewidth=0.4)
        axes.margins(x=0.15)
    save_figure(figure, path)


def draw_shares(measurements: Sequence[Measurement], classes: Sequence[str], path: Path) -> None:
    """Plot the share of each predicted class among the clips of each source, as a heat map."""
    shares = np.array(
        [[row.selections[ALL].metrics[f"share_{name}"].value for name in classes] for row in measurements]
    )
    figure = Figure(figsize=(0.7 * len(classes) + 3, 0.45 * len(measurements) + 1.5), layout="constrained")
    axes = figure.add_subplot(title="share of each predicted class")
    image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=max(0.3, float(shares.max())))
    axes.set_xticks(range(len(classes)), classes, rotation=30)
    axes.set_yticks(range(len(measurements)), [row.source.name for row in measurements])
    for row, column in np.ndindex(shares.shape):
        is_dark = shares[row, column] > 0.6 * image.get_clim()[1]
        text = f"{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if is_dark else "k")
    save_figure(figure, path)


def draw_trade_off(measurements: Sequence[Measurement], path: Path) -> None:
    """Plot FID against IS of each source with 95 % intervals; a line joins generated sources in order.

    The training clips are excluded: their distance to themselves is 0.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="IS (higher is better)", ylabel="FID (lower is better)")
    generated = []
    for measurement in measurements:
        source = measurement.source
        if source.kind == "train":
            continue
        score, distance = (measurement.selections[ALL].metrics[metric] for metric in ("is", "fid"))
        is_recorded = source.kind == "test"
        x_error, y_error = (0.0 if low is None else value - low for value, low, _ in (score, distance))
        colour = "tab:grey" if is_recorded else "tab:blue"
        point = score.value, distance.value
        axes.errorbar(*point, xerr=x_error, yerr=y_error, fmt="o", color=colour)
        axes.annotate(source.name, point, xytext=(5, 5), textcoords="offset points")
        if not is_recorded:
            generated.append(point)
    axes.plot(*np.array(generated).reshape(-1, 2).T, color="tab:blue", linewidth=0.8)
    save_figure(figure, path)


def draw_embedding(run: Path, sources: Sequence[str], path: Path) -> None:
    """Plot the clips of each source on the two principal axes of the first source's features.

    run: run folder of an evaluation. One panel per source; the colour is the predicted class.
    """
    features = {source: np.load(run / source / FEATURES) for source in sources}
    projection = PCA(n_components=2, random_state=0).fit(features[sources[0]])
    predicted = {
        source: np.array([row["class"] for row in read_clip_table(run / source / CLIP_TABLE)])
        for source in sources
    }
    classes = sorted({name for names in predicted.values() for name in names})
    figure = Figure(figsize=(3.6 * len(sources) + 1.2, 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sources), sharex=True, sharey=True))
    for axes, source in zip(panels, sources, strict=True):
        points = projection.transform(features[source])
        for number, name in enumerate(classes):
            x, y = points[predicted[source] == name].T
            axes.scatter(x, y, s=6, alpha=0.7, color=f"C{number % 10}", label=name)
        axes.set(title=source, xticks=[], yticks=[])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", markerscale=2)
    save_figure(figure, path)


def draw_spectrograms(files: Sequence[Path], path: Path) -> None:
    """Plot the log-mel spectrogram of each WAV file, with its folder and name as title."""
    rows = -(-len(files) // SPECTROGRAMS_PER_ROW)
    figure = Figure(figsize=(2.6 * SPECTROGRAMS_PER_ROW, 1.8 * rows), layout="constrained")
    for number, file in enumerate(files, 1):
        waveform = read_waveform(file)
        axes = figure.add_subplot(rows, SPECTROGRAMS_PER_ROW, number, yticks=[])
        extent = (0, len(waveform) / RATE, 0, 1)
        axes.imshow(spectrogram(waveform), origin="lower", aspect="auto", extent=extent, cmap="magma")
        axes.set_title(f"{file.parent.name}, {file.stem}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("time (seconds)", fontsize=8)
    save_figure(figure, path)


def draw_positions(likelihoods: Mapping[str, Likelihood], path: Path) -> None:
    """Plot bits per sample against the position in the window, one line per likelihood."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="position in the window (samples)", ylabel="held-out bits per sample")
    axes.set_xscale("log", base=2)
    for name, likelihood in likelihoods.items():
        rows = likelihood.rows()
        middles = [(row["first"] * row["last"]) ** 0.5 for row in rows]
        bits = [row["bits_per_sample"] for row in rows]
        (line,) = axes.plot(middles, bits, marker="o", markersize=3, label=name)
        axes.axhline(likelihood.bits, color=line.get_color(), linewidth=0.8, linestyle="dashed")
    axes.legend(title="dashed: mean")
    save_figure(figure, path)


def draw_lengths(rows: Sequence[Mapping[str, Any]], scored: int, path: Path) -> None:
    """Plot bits of the same `scored` samples against the length of the sequence that ends with them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="sequence length (samples)", ylabel=f"bits per sample of its last {scored:,} samples"
    )
    axes.set_xscale("log", base=2)
    axes.plot([row["length"] for row in rows], [row["bits_per_sample"] for row in rows], marker="o")
    axes.grid(linewidth=0.4)
    save_figure(figure, path)


def draw_bits(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the held-out bits of the rows of audio_compare: one panel per table, one point per seed."""
    tables = list(dict.fromkeys(row["table"] for row in rows))
    figure = Figure(figsize=(4.5 * len(tables), 4.5), layout="constrained")
    for number, table in enumerate(tables, 1):
        table_rows = [row for row in rows if row["table"] == table]
        axes = figure.add_subplot(1, len(tables), number)
        axes.set(title=f"{table} (lower is better)", ylabel="test bits per sample")
        names = list(dict.fromkeys(row["model"] for row in table_rows))
        axes.plot([row["model"] for row in table_rows], [row["nll_bits"] for row in table_rows], "o")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.margins(0.1)
        axes.grid(axis="y", linewidth=0.4)
    save_figure(figure, path)
