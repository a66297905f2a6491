"""What stays of a run when it has ended: summary.json's content and the picture of its losses."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from core.training.distributed import World
from core.training.metrics import read_metrics
from core.training.progress import Progress
from kernels.provenance import commit, hardware

SMOOTHED_POINTS = 50
FEWEST_POINTS = 20


def summary(progress: Progress, model: nn.Module, world: World, unit: str) -> dict[str, Any]:
    """The results of a run: final and best loss (nats), amounts, rate, hardware, and the code's commit.

    `data_wait` is the fraction of the training that was spent waiting for data; `stages`, of a length
    warm-up, has it for each length.
    """
    return {
        "loss": progress.loss,
        "validation": progress.validation,
        "best": {"step": progress.best_step, "loss": progress.best_loss},
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "tokens": progress.tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_seconds": round(progress.seconds, 3),
        "wall_seconds": round(progress.wall_seconds, 3),
        f"{unit}s_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
        "data_wait": progress.waited_seconds / progress.seconds if progress.seconds else None,
        "stages": progress.stages,
        "peak_memory_gib": peak_memory_gib(world.device),
        "processes": world.size,
        "hardware": hardware(world.device),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def plot_loss(metrics: Path, picture: Path) -> None:
    """Draw the training loss (in nats; each value, and smoothed) and the validation loss against the step.

    A line stands at the end of each stage of a length warm-up, beside it the length of its sequences. The
    steep fall of the first steps runs out of the picture, which would otherwise show nothing else.
    """
    events = read_metrics(metrics)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats)")
    steps, losses = _curve(events, "train")
    if len(steps):
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
        axes.plot(steps, _smoothed(losses), color="tab:blue", label="train (smoothed)")
    validated_steps, validated = _curve(events, "validation")
    if len(validated):
        axes.plot(
            validated_steps, validated, color="tab:orange", marker="o", markersize=3, label="validation"
        )
    if axes.lines:
        axes.legend()
    if (shown := limits(losses, validated)) is not None:
        axes.set_ylim(*shown)
    for stage in (event for event in events if event["event"] == "stage"):
        axes.axvline(stage["step"], color="grey", linewidth=0.6)
        place = {"x": stage["step"], "y": 1.0, "transform": axes.get_xaxis_transform()}
        axes.text(s=f"{stage['length']:,} ", rotation=90, ha="right", va="top", fontsize=7, **place)
    figure.savefig(picture, dpi=120, format="png")


def peak_memory_gib(device: torch.device) -> float | None:
    """The most GPU memory that tensors have taken in this process; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _curve(events: list[dict[str, Any]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the events of one kind, (n,) each."""
    points = [(event["step"], float(event["loss"])) for event in events if event["event"] == kind]
    steps, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, losses


def limits(losses: np.ndarray, validated: np.ndarray) -> tuple[float, float] | None:
    """The range of losses (n,) and (m,) that is worth seeing: of all but the first tenth of the training's,
    and but for their outliers, with the validation's last; None for few."""
    losses = losses[np.isfinite(losses)]
    if len(losses) < FEWEST_POINTS:
        return None
    low, high = np.percentile(losses[len(losses) // 10 :], (1, 99))
    shown = [low, high, *validated[np.isfinite(validated)][-1:]]
    margin = 0.1 * (max(shown) - min(shown)) or 0.1
    return min(shown) - margin, max(shown) + margin


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """The mean over the last fiftieth of the points, (n,) to (n,)."""
    window = max(1, len(losses) // SMOOTHED_POINTS)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
