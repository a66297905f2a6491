"""What benchmarks share: errors against fp64 first, then time and memory, and no ratio for a wrong result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

BANDWIDTH = 4.3e12  # bytes a second, read and written, that copying reaches on an H200


@dataclass(frozen=True)
class Measurement:
    """Of one implementation: errors by output and gradient, milliseconds, and MiB added by both passes."""

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
    """Measure `forward`, which gives outputs, and its backward from `grads` into `leaves`.

    `errors`, called with the outputs and the gradients, compares them with the truth.
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
    """Measure as `measure` does, where the errors are known already."""

    def forward_backward() -> list[Tensor]:
        outputs = forward()
        return [*outputs, *torch.autograd.grad(outputs, leaves, grads)]

    device = grads[0].device
    with torch.no_grad():
        forward_ms = _median_ms(forward, device)
    return Measurement(
        errors, forward_ms, _median_ms(forward_backward, device), _peak_mib(forward_backward, device)
    )


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Return the largest deviation from the truth over its largest magnitude."""
    return ((found.detach().double() - truth).abs().max() / truth.abs().max()).item()


def compare(
    case: dict[str, Any], ours: Measurement, official: Measurement | None, allowed: dict[str, float]
) -> dict[str, Any]:
    """Return a row: the case, both measurements, and ratios of time, official / ours.

    Ratios are None, for a `reason`, where an error of ours is more than `allowed` or none is official.
    """
    wrong = [name for name, error in ours.errors.items() if not error <= allowed[name]]
    reason = (
        f"wrong: {', '.join(wrong)}" if wrong else None if official else "the official one is not importable"
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
    """Return the milliseconds that the memory of an H200 takes for bytes an element, as fields of a row."""
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
