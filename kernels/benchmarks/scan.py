"""Selective scan at training shapes, ours and the official CUDA kernels if they are installed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.benchmarks.measure import Measurement, compare, measure_times
from kernels.selective_scan import reference, selective_scan
from kernels.selective_scan.arguments import ScanArguments


@dataclass(frozen=True)
class Shape:
    """Shape of one case."""

    batch: int
    channels: int
    length: int
    state: int = 16
    complex: bool = False

    @property
    def elements(self) -> int:
        """Return the number of elements of x."""
        return self.batch * self.channels * self.length


@dataclass(frozen=True)
class Target:
    """Target ratio of the times, official / ours."""

    forward: float
    forward_backward: float


TARGETS = {
    Shape(8, 1024, 2048): Target(1.5, 2),
    Shape(8, 1536, 2048): Target(1.5, 2),
    Shape(8, 1536, 2049): Target(4, 5),
    Shape(8, 2048, 2048): Target(1.7, 2),
    Shape(1024, 256, 1024): Target(2.5, 3),
    Shape(128, 256, 8192): Target(2, 2.5),
    Shape(8, 256, 131072): Target(1.7, 2.3),
    Shape(1, 256, 2**20): Target(2.5, 2.7),
    Shape(1, 512, 2**20): Target(1.7, 3),
    Shape(1, 128, 958464): Target(4, 4),
    Shape(32, 256, 16000): Target(2.5, 3),
    Shape(4096, 256, 16): Target(5, 8),
    Shape(32, 256, 16000, state=64): Target(2, 2.5),
    Shape(32, 256, 16000, complex=True): Target(2, 2.5),
    Shape(1, 128, 958464, state=8, complex=True): Target(4, 4),
}
SWEEP = tuple(Shape(1, 512, 2**power) for power in range(10, 21, 2))
NAMES = ("y", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
# Ratio of root mean squares; storage in bf16 rounds by at most 2^-9 of a number.
ALLOWED = dict.fromkeys(NAMES, 3e-3) | dict.fromkeys(("A", "D", "dt_bias"), 3e-5)
CHECKED_LENGTH, CHECKED_BATCH = 300, 2
Leaves = list[Tensor]


def row(shape: Shape, target: Target | None = None) -> dict[str, Any]:
    """Return a row: errors of both against fp64, times and memory; no ratio for a wrong result."""
    errors = _errors(shape.channels, shape.length, shape.state, shape.complex)
    ours = _measure(selective_scan_of, make_leaves(shape), errors["ours"])
    official = None
    if official_scan() is not None:
        official = _measure(official_scan_of, to_official(make_leaves(shape)), errors["official"])
    measured = compare(asdict(shape), ours, official, ALLOWED)
    forward, forward_backward = floors(shape)
    measured |= {"floor_forward_ms": forward, "floor_forward_backward_ms": forward_backward}
    if target is not None:
        measured |= {"target_forward": target.forward, "target_forward_backward": target.forward_backward}
    return measured


def floors(shape: Shape) -> tuple[float, float]:
    """Return the shortest possible time on an H200 (ms), forward and forward + backward.

    Special-function units: 16 results per clock on each of 132 multiprocessors at 1.98 GHz, for one
    exponential per state and pass (complex: three functions). Memory: 4.3 TB/s, for x, dt, z and y of 2 bytes
    forward, and x, dt, z, dy, dx, ddt and dz backward.
    """
    functions = shape.elements * shape.state * (3 if shape.complex else 1) / (16 * 132 * 1.98e9)
    forward_memory, backward_memory = (shape.elements * 2 * tensors / 4.3e12 for tensors in (4, 7))
    forward, backward = max(functions, forward_memory), max(functions, backward_memory)
    return forward * 1e3, (forward + backward) * 1e3


def make_leaves(shape: Shape, seed: int = 0) -> Leaves:
    """Return x, dt, A, B, C, D, z and dt_bias on the GPU; x, dt, B, C and z are bf16."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda", generator=generator)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, device="cuda", generator=generator)

    over_time = (shape.batch, shape.length)
    numbers = (*over_time, shape.state, 2) if shape.complex else (*over_time, shape.state)
    A = -uniform(shape.channels, shape.state) - 0.5
    if shape.complex:
        A = torch.complex(A, normal(shape.channels, shape.state))
    leaves = [
        normal(*over_time, shape.channels).bfloat16(),
        (uniform(*over_time, shape.channels) * 0.5).bfloat16(),
        A,
        normal(*numbers).bfloat16(),
        normal(*numbers).bfloat16(),
        normal(shape.channels),
        normal(*over_time, shape.channels).bfloat16(),
        uniform(shape.channels) - 4,
    ]
    return [leaf.requires_grad_() for leaf in leaves]


def selective_scan_of(leaves: Leaves) -> Tensor:
    """Return y of our scan."""
    x, dt, A, B, C, D, z, dt_bias = leaves
    y = selective_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus=True)
    assert isinstance(y, Tensor)
    return y


@cache
def official_scan() -> Callable[..., Tensor] | None:
    """Return the official scan, or None if mamba_ssm is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def official_scan_of(leaves: Leaves) -> Tensor:
    """Return y of the official scan."""
    scan = official_scan()
    assert scan is not None
    return scan(*leaves, delta_softplus=True)


def to_official(leaves: Leaves) -> Leaves:
    """Return the leaves in the layout of the official kernels: time last, complex B and C interleaved."""
    x, dt, A, B, C, D, z, dt_bias = (leaf.detach() for leaf in leaves)
    x, dt, z = (tensor.transpose(1, 2).contiguous() for tensor in (x, dt, z))
    if A.is_complex():
        B, C = (tensor.permute(0, 2, 1, 3).flatten(2).unsqueeze(1).contiguous() for tensor in (B, C))
    else:
        B, C = (tensor.transpose(1, 2).unsqueeze(1).contiguous() for tensor in (B, C))
    return [leaf.requires_grad_() for leaf in (x, dt, A, B, C, D, z, dt_bias)]


def _from_official(values: list[Tensor], is_complex: bool) -> list[Tensor]:
    """Return the official y and gradients in our layout."""
    y, x, dt, A, B, C, D, z, dt_bias = values
    y, x, dt, z = (tensor.transpose(1, 2) for tensor in (y, x, dt, z))
    if is_complex:
        B, C = (tensor.squeeze(1).unflatten(-1, (-1, 2)).permute(0, 2, 1, 3) for tensor in (B, C))
    else:
        B, C = (tensor.squeeze(1).transpose(1, 2) for tensor in (B, C))
    return [y, x, dt, A, B, C, D, z, dt_bias]


def _measure(scan: Callable[[Leaves], Tensor], leaves: Leaves, errors: dict[str, float]) -> Measurement:
    grad = torch.randn_like(leaves[0])
    return measure_times(lambda: [scan(leaves)], leaves, [grad], errors)


@cache
def _errors(channels: int, length: int, state: int, is_complex: bool) -> dict[str, dict[str, float]]:
    """Return the errors of our scan and of the official scan on a short sequence."""
    short = min(length, CHECKED_LENGTH + length % 2)
    shape = Shape(CHECKED_BATCH, channels, short, state, is_complex)
    leaves = make_leaves(shape, seed=1)
    grad = torch.randn_like(leaves[0])
    double = [
        leaf.detach().to(torch.complex128 if leaf.is_complex() else torch.float64).requires_grad_()
        for leaf in leaves
    ]
    x, dt, A, B, C, D, z, dt_bias = double
    y, _ = reference.selective_scan(
        ScanArguments(x, dt, A, B.unsqueeze(2), C.unsqueeze(2), D, z, dt_bias, dt_softplus=True)
    )
    truth = _with_gradients(y, double, grad.double())
    values = {"ours": _with_gradients(selective_scan_of(leaves), leaves, grad)}
    if official_scan() is not None:
        its = to_official(leaves)
        its_grad = grad.transpose(1, 2).contiguous()
        values["official"] = _from_official(_with_gradients(official_scan_of(its), its, its_grad), is_complex)
    return {who: _relative(outputs, truth) for who, outputs in values.items()}


def _with_gradients(y: Tensor, leaves: Leaves, grad: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def _relative(values: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    errors = {}
    for name, value, true in zip(NAMES, values, truth, strict=True):
        errors[name] = ((value.to(true.dtype) - true).norm() / true.norm()).item()
    return errors
