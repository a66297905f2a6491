"""Measurement of a kernel: errors against fp64 first, then time and memory; no ratio for a wrong result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

BANDWIDTH = 4.3e12  # bytes per second, read and written, of a copy on an H200


@dataclass(frozen=True)
class Measurement:
    """Measurement of one implementation: errors by tensor, times (ms), peak memory (MiB)."""

    errors: dict[str, float]
    forward_ms: float
    forward_backward_ms: float
    peak_mib: float | None  # unknown on the CPU


def measure(
    forward: Callable[[], Sequence[Tensor]],
    leaves: Sequence[Tensor],
    grads: Sequence[Tensor],
    errors: Callable[..., dict[str, float]],
) -> Measurement:
    """Measure `forward`, which returns outputs, and its backward from `grads` into `leaves`.

    `errors` compares the outputs and gradients with the truth.
    """

    outputs = forward()
    gradients = torch.autograd.grad(outputs, leaves, grads)
    return measure_times(forward, leaves, grads, errors(*outputs, *gradients))


def measure_times(
    forward: Callable[[], Sequence[Tensor]],
    leaves: Sequence[Tensor],
    grads: Sequence[Tensor],
    errors: dict[str, float],
) -> Measurement:
    """Measure time and memory like `measure`, with known errors."""

    def forward_backward() -> list[Tensor]:
        outputs = forward()
        return [*outputs, *torch.autograd.grad(outputs, leaves, grads)]

    device = grads[0].device
    with torch.no_grad():
        forward_ms = _median_ms(forward, device)
    return Measurement(
        errors, forward_ms, _median_ms(forward_backward, device), _peak_mib(forward_backward, device)
    )


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Return the largest deviation from the truth, relative to the maximum of the truth."""
    return ((value.detach().double() - truth).abs().max() / truth.abs().max()).item()


def compare(
    case: dict[str, Any], ours: Measurement, official: Measurement | None, allowed: dict[str, float]
) -> dict[str, Any]:
    """Return a row: the case, both measurements, and the ratios of time, official / ours.

    Ratios are None and `reason` is set if an error of ours exceeds `allowed`, or without `official`.
    """
    wrong = [name for name, error in ours.errors.items() if not error <= allowed[name]]
    reason = (
        f"wrong: {', '.join(wrong)}"
        if wrong
        else None
        if official
        else "the official package is not installed"
    )
    row = dict(case) | {"errors": ours.errors, "official_errors": official.errors if official else None}
    for key in ("forward_ms", "forward_backward_ms", "peak_mib"):
        row |= {f"ours_{key}": getattr(ours, key), f"official_{key}": getattr(official, key, None)}
    ratios = dict.fromkeys(("error_ratio", "forward_ratio", "forward_backward_ratio"))
    if official and not wrong:
        ratios = {
            "error_ratio": max(ours.errors[name] / max(official.errors[name], 1e-30) for name in ours.errors),
            "forward_ratio": official.forward_ms / ours.forward_ms,
            "forward_backward_ratio": official.forward_backward_ms / ours.forward_backward_ms,
        }
    return row | ratios | {"reason": reason}


def memory_floors(elements: int, forward_bytes: int, backward_bytes: int) -> dict[str, float]:
    """Return the time (ms) that an H200 needs to move these bytes per element, as fields of a row."""
    forward_ms, backward_ms = (elements * size / BANDWIDTH * 1e3 for size in (forward_bytes, backward_bytes))
    return {"floor_forward_ms": forward_ms, "floor_forward_backward_ms": forward_ms + backward_ms}


def _median_ms(function: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        from triton.testing import do_bench

        return do_bench(function, warmup=50, rep=200, return_mode="median")
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.5).median * 1e3


def _peak_mib(function: Callable[[], Any], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
