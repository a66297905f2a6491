"""The selective scan on the CPU: memory and threads around the loops that numba compiles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.layout import address
from kernels.selective_scan import cpu_backward, cpu_forward, cpu_step
from kernels.selective_scan.cpu_layout import (
    Layout,
    common_groups,
    is_constant,
    kind_of,
    relabel,
    sum_first_axis,
    unlabel,
    with_groups,
)
from kernels.selective_scan.cpu_run import BLOCK, CHUNK, Inputs, Sizes, blocks_of
from kernels.threads import run_in_ranges

__all__ = ["CHUNK", "backward", "forward", "step"]

_EXACT = (torch.float32, torch.complex64)
_FEWEST_UPDATES = 1 << 16  # of one state of one channel, for which a thread is worth waking


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state, and the checkpoints, in memory (batch, chunks, N, parts, channels)."""
    layout = Layout.of(x, A, B, C)
    sizes = layout.sizes(x, dt_softplus, reverse)
    tensors = layout.inputs(x, dt, A, B, C, D, z, dt_bias, initial_state)
    checkpoints = torch.empty(sizes.rows, -(-sizes.length // CHUNK), *layout.states_shape)
    y = torch.empty(sizes.rows, sizes.length, sizes.channels)
    sequences = sizes.rows if cu_seqlens is None else len(cu_seqlens) - 1
    final_state = torch.zeros(sequences, *layout.states_shape) if tensors[-1] is None else tensors[-1].clone()
    inputs = Inputs(*map(address, (*tensors, checkpoints)))
    arguments = (sizes, inputs, _segments(x, cu_seqlens, reverse), y.data_ptr(), final_state.data_ptr())
    _run(cpu_forward.forward, sizes, *arguments, layout.kind)
    return (
        layout.trim(y).to(x.dtype),
        layout.to_states(final_state),
        relabel(layout.trim(checkpoints), A),
    )


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, dt, A, B, C, D, z, dt_bias and initial_state, None for an absent one."""
    layout = Layout.of(x, A, B, C)
    sizes = layout.sizes(x, dt_softplus, reverse)
    tensors = layout.inputs(x, dt, A, B, C, D, z, dt_bias, initial_state)
    states = layout.pad(unlabel(checkpoints, A))
    grad_outputs = (
        layout.pad(grad_y),
        None if grad_final_state is None else layout.from_states(grad_final_state),
    )
    activation = (sizes.rows, sizes.length, sizes.channels)
    varying = (
        blocks_of(sizes.channels // sizes.groups),
        *activation[:2],
        sizes.groups,
        *layout.states_shape[:2],
    )
    constant = (sizes.rows, *layout.states_shape)
    grad_x, grad_dt = torch.empty(activation), torch.empty(activation)
    grad_z = None if z is None else torch.empty(activation)
    grad_A = torch.zeros(constant)
    grad_B, grad_C = (
        torch.zeros(constant) if form else torch.empty(varying)
        for form in (sizes.constant_B, sizes.constant_C)
    )
    grad_D, grad_bias = (torch.zeros(sizes.rows, sizes.channels) for _ in range(2))
    grad_state = None
    if tensors[-1] is not None:
        grad_state = torch.zeros_like(tensors[-1]) if grad_outputs[1] is None else grad_outputs[1].clone()
    written = (grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_state)
    inputs = Inputs(*map(address, (*tensors, states)))
    gradients = cpu_backward.Gradients(*map(address, grad_outputs + written))
    segments = _segments(x, cu_seqlens, reverse)
    _run(cpu_backward.backward, sizes, sizes, inputs, segments, gradients, layout.kind)
    return (
        layout.trim(grad_x),
        layout.trim(grad_dt),
        layout.to_states(sum_first_axis(grad_A)),
        layout.to_parameter(grad_B, B),
        layout.to_parameter(grad_C, C),
        None if D is None else layout.trim(sum_first_axis(grad_D)),
        None if grad_z is None else layout.trim(grad_z),
        None if dt_bias is None else layout.trim(sum_first_axis(grad_bias)),
        None if grad_state is None else layout.to_states(grad_state),
    )


def step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """Return y (batch, channels); `state` (batch, channels, N), contiguous, is updated in place."""
    batch, channels = x.shape
    kind = kind_of(A)
    groups = common_groups(x, A, B, C)
    B, C = with_groups(B, groups, x, A), with_groups(C, groups, x, A)
    extents = (batch, 1, channels, A.shape[1], kind.parts, groups)
    sizes = Sizes(*extents, False, dt_softplus, is_constant(B, A), is_constant(C, A))
    tensors = [
        tensor if tensor is None or tensor.dtype in _EXACT else tensor.float()
        for tensor in (x, dt, A, B, C, D, z, dt_bias, state, None)
    ]
    inputs = Inputs(*map(address, tensors))
    y = torch.empty(batch, channels)
    run_in_ranges(
        lambda first, last: cpu_step.step(first, last, sizes, inputs, y.data_ptr(), kind),
        batch,
        1 + _FEWEST_UPDATES // A.numel(),
    )
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _segments(x: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> np.ndarray:
    """Return (start, end, sequence) of each sequence with any positions, in the order of the scan."""
    length = x.shape[1]
    if cu_seqlens is None:
        return np.array([[0, length, 0]])
    bounds = cu_seqlens.long().numpy()
    segments = np.stack([bounds[:-1], bounds[1:], np.arange(len(bounds) - 1)], axis=1)
    if reverse:
        segments = np.stack([length - segments[:, 1], length - segments[:, 0], segments[:, 2]], axis=1)[::-1]
    return np.ascontiguousarray(segments[segments[:, 0] < segments[:, 1]])


def _run(kernel: Callable[..., object], sizes: Sizes, *arguments: Any) -> None:
    tasks = sizes.rows * sizes.groups * blocks_of(sizes.channels // sizes.groups)
    updates = sizes.length * sizes.states * min(BLOCK, sizes.channels // sizes.groups)
    run_in_ranges(lambda first, last: kernel(first, last, *arguments), tasks, 1 + _FEWEST_UPDATES // updates)
