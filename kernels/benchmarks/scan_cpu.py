"""Speed of the selective scan on the CPU, ours and mambapy's: `python -m kernels.benchmarks.scan_cpu`.

Both get the same inputs. Outputs and gradients are compared before timing: a wrong result gets no ratio. The
scans are timed alternately, so that load on the machine affects both.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import selective_scan

CASES = ((2, 512, 1024, 16), (1, 256, 4096, 16))  # batch, channels, length, N
ROUNDS = 9
TOLERANCE = 1e-4


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.benchmarks.scan_cpu", description=__doc__)
    parser.parse_args(argv)
    try:
        rows = run()
    except ImportError:
        sys.exit("mambapy is not installed. Install it: pip install mambapy==1.2.0.")
    threads = torch.get_num_threads()
    print(
        f"selective scan on the CPU, {threads} threads, fp32; ns per element of x, median of {ROUNDS} rounds"
    )
    for row in rows:
        shape = f"batch {row['batch']}, channels {row['channels']}, length {row['length']}, N {row['state']}"
        print(f"{shape}: largest relative difference {row['difference']:.1e}")
        for name in ("forward", "forward_backward"):
            ours, theirs = row[f"ours_{name}_ns"], row[f"mambapy_{name}_ns"]
            ratio = row[f"{name}_ratio"]
            print(f"  {name:16}  ours {ours:6.2f}   mambapy {theirs:7.1f}   ratio {ratio:.1f}")


def run() -> list[dict[str, Any]]:
    """Return one row per case: nanoseconds per element of x, ours and mambapy's, and the median ratio.

    Raises ValueError before timing if an output or a gradient differs by more than TOLERANCE.
    """
    from mambapy.mamba import MambaBlock

    def theirs(*arguments: Tensor) -> Tensor:
        return MambaBlock.selective_scan(None, *arguments)

    return [_measure(case, selective_scan, theirs) for case in CASES]


def _measure(case: tuple[int, int, int, int], *scans: Callable[..., Any]) -> dict[str, Any]:
    batch, channels, length, _ = case
    arguments = _arguments(*case)
    grad_y = torch.randn(batch, length, channels)
    difference = _difference(*(_forward_backward(scan, arguments, grad_y) for scan in scans))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The scans of {case} differ by {difference:.1e} of the largest value; the limit is "
            f"{TOLERANCE:.0e}. Times of different results are not comparable."
        )
    row = dict(zip(("batch", "channels", "length", "state"), case, strict=True)) | {"difference": difference}
    for name, work in (("forward", _forward), ("forward_backward", _forward_backward)):
        rounds = [[_seconds(work, scan, arguments, grad_y) for scan in scans] for _ in range(ROUNDS)]
        scale = 1e9 / grad_y.numel()
        row |= {
            f"ours_{name}_ns": scale * statistics.median(ours for ours, _ in rounds),
            f"mambapy_{name}_ns": scale * statistics.median(peer for _, peer in rounds),
            f"{name}_ratio": statistics.median(peer / ours for ours, peer in rounds),
        }
    return row


def _arguments(batch: int, channels: int, length: int, states: int) -> list[Tensor]:
    """Return x, dt, A, B, C and D with the distributions of early training."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(batch, length, channels, generator=generator) for _ in range(2))
    B, C = (torch.randn(batch, length, states, generator=generator) for _ in range(2))
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    arguments = [x, torch.nn.functional.softplus(noise - 4), A, B, C, torch.ones(channels)]
    return [argument.requires_grad_() for argument in arguments]


def _forward(scan: Callable[..., Any], arguments: list[Tensor], grad_y: Tensor) -> Tensor:
    with torch.no_grad():
        return scan(*arguments)


def _forward_backward(
    scan: Callable[..., Any], arguments: list[Tensor], grad_y: Tensor
) -> tuple[Tensor, ...]:
    y = scan(*arguments)
    return (y, *torch.autograd.grad(y, arguments, grad_y))


def _difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Return the largest difference over all tensors, relative to the maximum of each tensor."""
    pairs = zip(ours, theirs, strict=True)
    return max(((mine - other).abs().max() / other.abs().max()).item() for mine, other in pairs)


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
