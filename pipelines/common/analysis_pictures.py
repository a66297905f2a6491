"""Pictures of sounds and their metrics for the notebook: spectrograms, FID against IS, a map of features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from audio.data.waveform import RATE, read_waveform
from audio.evaluation.report import ALL, Measurement
from audio.evaluation.sources import CLIP_TABLE, FEATURES, read_clip_table
from audio.listening.pictures import spectrogram
from core.plots import save_figure

ACROSS = 4


def draw_spectrograms(files: Sequence[Path], picture: Path) -> None:
    """The log-mel spectrogram of each sound, under the names of its folder and its file."""
    rows = -(-len(files) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 1.8 * rows), layout="constrained")
    for place, file in enumerate(files, 1):
        waveform = read_waveform(file)
        axes = figure.add_subplot(rows, ACROSS, place, yticks=[])
        reach = (0, len(waveform) / RATE, 0, 1)
        axes.imshow(spectrogram(waveform), origin="lower", aspect="auto", extent=reach, cmap="magma")
        axes.set_title(f"{file.parent.name}, {file.stem}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("seconds", fontsize=8)
    save_figure(figure, picture)


def draw_trade_off(measured: Sequence[Measurement], picture: Path) -> None:
    """FID against IS of each source, with 95 % intervals; the generated ones joined in their order.

    The training clips are left out: their distance is to themselves.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="IS (higher is better)", ylabel="FID (lower is better)")
    joined = []
    for one in (one for one in measured if one.source.kind != "train"):
        metrics = one.selections[ALL].metrics
        score, distance = metrics["is"], metrics["fid"]
        is_recorded = one.source.kind == "test"
        reach = [0.0 if low is None else value - low for value, low, _ in (score, distance)]
        axes.errorbar(
            score.value,
            distance.value,
            xerr=reach[0],
            yerr=reach[1],
            fmt="o",
            color="tab:grey" if is_recorded else "tab:blue",
        )
        axes.annotate(
            one.source.name, (score.value, distance.value), xytext=(5, 5), textcoords="offset points"
        )
        if not is_recorded:
            joined.append((score.value, distance.value))
    axes.plot(*np.array(joined).reshape(-1, 2).T, color="tab:blue", linewidth=0.8)
    save_figure(figure, picture)


def draw_embedding(run: Path, sources: Sequence[str], picture: Path) -> None:
    """A panel a source of an evaluation: its clips on the two principal axes of the first one's features.

    The colour is the class that the classifier hears.
    """
    features = {source: np.load(run / source / FEATURES) for source in sources}
    axes_of = PCA(n_components=2, random_state=0).fit(features[sources[0]])
    heard = {source: _heard(run, source) for source in sources}
    classes = sorted({name for names in heard.values() for name in names})
    figure = Figure(figsize=(3.6 * len(sources) + 1.2, 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sources), sharex=True, sharey=True))
    for axes, source in zip(panels, sources, strict=True):
        points = axes_of.transform(features[source])
        for number, name in enumerate(classes):
            chosen = points[heard[source] == name]
            axes.scatter(*chosen.T, s=6, alpha=0.7, color=f"C{number % 10}", label=name)
        axes.set(title=source, xticks=[], yticks=[])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", markerscale=2)
    save_figure(figure, picture)


def _heard(run: Path, source: str) -> npt.NDArray[np.str_]:
    """The class that is heard in each clip (clips,)."""
    return np.array([row["class"] for row in read_clip_table(run / source / CLIP_TABLE)])
