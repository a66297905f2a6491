"""Argument checks: each ValueError names the argument, its value and the expected value."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

ACTIVATION_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_float(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless `tensor` is real floating point of 16 bits or more."""
    if tensor.dtype not in ACTIVATION_DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; it should be float64, float32, bfloat16 or float16.")


def check_shape(name: str, tensor: Tensor, shape: Sequence[int], meaning: str) -> None:
    """Raise ValueError unless `tensor` has `shape`; `meaning` names its axes, e.g. "(channels, width)"."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it should be {meaning} = {tuple(shape)}.")


def check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    """Raise ValueError unless `tensor` is on the device of x."""
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device}; it should be on {x.device}, like x.")


def check_cu_seqlens(cu_seqlens: Tensor, x: Tensor) -> None:
    """Raise ValueError unless shape and dtype of `cu_seqlens` fit packed sequences in x."""
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens is {cu_seqlens.dtype}; it should be int32 or int64.")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 1:
        raise ValueError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)}; it should be (sequences + 1,): the start "
            "of each packed sequence, and the total length."
        )
    if x.shape[0] != 1:
        raise ValueError(
            f"x has batch {x.shape[0]}; it should be 1, since cu_seqlens packs sequences into one row."
        )
    check_device("cu_seqlens", cu_seqlens, x)


def check_bounds(cu_seqlens: Tensor, length: int) -> None:
    """Raise ValueError unless `cu_seqlens` (on the CPU) goes from 0 to `length` and never decreases."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != length:
        raise ValueError(
            f"cu_seqlens runs from {bounds[0]} to {bounds[-1]}; it should run from 0 to {length}, x's length."
        )
    if any(later < earlier for earlier, later in itertools.pairwise(bounds)):
        raise ValueError("cu_seqlens decreases; a sequence should not end before its start.")


def reject_second_derivative(operator: str) -> Callable[..., NoReturn]:
    """Return a derivative for the backward of an operator that raises, since torch would return zeros."""

    def reject(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{operator} was differentiated twice, which only float64 supports. "
            "Convert its arguments to float64."
        )

    return reject
