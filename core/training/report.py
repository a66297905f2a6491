"""Report of a finished run: the content of summary.json and the plot of its losses."""

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

SMOOTHING_WINDOWS = 50
MIN_POINTS = 20


def summary(progress: Progress, model: nn.Module, world: World, unit: str) -> dict[str, Any]:
    """Return the results of a run: final and best loss (nats), amounts, speed, hardware and commit.

    `data_wait` is the fraction of the training time spent waiting for data; `stages` has it for each length
    of a length warm-up.
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
    """Plot the training loss (nats; raw and smoothed) and the validation loss against the step.

    A vertical line marks the end of each stage of a length warm-up, with the length of its sequences. The
    axis is limited to the later losses: the steep fall of the first steps would hide all else.
    """
    events = read_metrics(metrics)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats)")
    steps, losses = _curve(events, "train")
    if len(steps):
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
        axes.plot(steps, _smoothed(losses), color="tab:blue", label="train (smoothed)")
    validation_steps, validation_losses = _curve(events, "validation")
    if len(validation_losses):
        axes.plot(
            validation_steps,
            validation_losses,
            color="tab:orange",
            marker="o",
            markersize=3,
            label="validation",
        )
    if axes.lines:
        axes.legend()
    if (axis_range := limits(losses, validation_losses)) is not None:
        axes.set_ylim(*axis_range)
    for stage in (event for event in events if event["event"] == "stage"):
        axes.axvline(stage["step"], color="grey", linewidth=0.6)
        place = {"x": stage["step"], "y": 1.0, "transform": axes.get_xaxis_transform()}
        axes.text(s=f"{stage['length']:,} ", rotation=90, ha="right", va="top", fontsize=7, **place)
    figure.savefig(picture, dpi=120, format="png")


def peak_memory_gib(device: torch.device) -> float | None:
    """Return the peak GPU memory of tensors in this process; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _curve(events: list[dict[str, Any]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and losses of the events of one kind, (n,) each."""
    points = [(event["step"], float(event["loss"])) for event in events if event["event"] == kind]
    steps, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, losses


def limits(losses: np.ndarray, validation_losses: np.ndarray) -> tuple[float, float] | None:
    """Return the range of the axis for training losses (n,) and validation losses (m,).

    It covers the 1st to 99th percentile of the training losses after the first tenth, and the last validation
    loss. None for fewer than MIN_POINTS training losses.
    """
    losses = losses[np.isfinite(losses)]
    if len(losses) < MIN_POINTS:
        return None
    low, high = np.percentile(losses[len(losses) // 10 :], (1, 99))
    values = [low, high, *validation_losses[np.isfinite(validation_losses)][-1:]]
    margin = 0.1 * (max(values) - min(values)) or 0.1
    return min(values) - margin, max(values) + margin


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Return the running mean over a fiftieth of the points, (n,) to (n,)."""
    window = max(1, len(losses) // SMOOTHING_WINDOWS)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
