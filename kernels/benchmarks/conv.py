"""Causal convolution with bias and SiLU, ours and the official causal_conv1d if it is installed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.benchmarks.measure import compare, measure, memory_floors, relative_error
from kernels.causal_conv1d import causal_conv1d, reference

WIDTH = 4
GPU_SHAPES = ((8, 2048, 2048), (1, 512, 2**20), (32, 256, 16000), (4096, 256, 16))  # batch, channels, length
CPU_SHAPES = ((2, 512, 1024),)
CHECKED_CHANNELS = 8  # channels are independent, so a few of them suffice
ALLOWED = {"y": 2**-8, "dx": 2**-8, "dweight": 1e-4, "dbias": 1e-4}  # y and dx are bf16


def rows(device: str) -> list[dict[str, Any]]:
    """Return one row per shape: errors against fp64, time and memory of ours and of the official kernel."""
    return [_row(*shape, device) for shape in (GPU_SHAPES if device == "cuda" else CPU_SHAPES)]


def _row(batch: int, channels: int, length: int, device: str) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    checked = slice(None, None, max(1, channels // CHECKED_CHANNELS))

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator, dtype=dtype)

    x, grad = normal(batch, length, channels, dtype=dtype), normal(batch, length, channels, dtype=dtype)
    weight, bias = normal(channels, WIDTH).requires_grad_(), normal(channels).requires_grad_()
    truth = _truth(x[..., checked], weight[checked], bias[checked], grad[..., checked])

    def errors(y: Tensor, dx: Tensor, dweight: Tensor, dbias: Tensor) -> dict[str, float]:
        outputs = (y[..., checked], dx[..., checked], dweight[checked], dbias[checked])
        pairs = zip(outputs, truth, strict=True)
        return {name: relative_error(*pair) for name, pair in zip(ALLOWED, pairs, strict=True)}

    x.requires_grad_()
    ours = measure(lambda: [_ours(x, weight, bias)], [x, weight, bias], [grad], errors)
    official_conv = _official() if device == "cuda" else None
    official = None
    if official_conv is not None:
        # The official kernels are fastest if time is contiguous.
        official_x, official_grad = (tensor.detach().transpose(1, 2).contiguous() for tensor in (x, grad))
        official_leaves = [official_x.requires_grad_(), weight, bias]
        official = measure(
            lambda: [official_conv(*official_leaves, activation="silu")],
            official_leaves,
            [official_grad],
            lambda y, dx, *others: errors(y.transpose(1, 2), dx.transpose(1, 2), *others),
        )
    case = {"operator": "causal_conv1d", "batch": batch, "channels": channels, "length": length}
    floors = memory_floors(x.numel(), 4, 6)  # x, y; x, dy, dx
    return compare(case, ours, official, ALLOWED) | floors


def _ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = causal_conv1d(x, weight, bias, "silu")
    assert isinstance(y, Tensor)
    return y


def _official() -> Callable[..., Tensor] | None:
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError:
        return None
    return causal_conv1d_fn


def _truth(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Return y and the gradients of x, weight and bias in fp64."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, weight, bias)]
    y, _ = reference.causal_conv1d(leaves[0], leaves[1], leaves[2], "silu")
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]
