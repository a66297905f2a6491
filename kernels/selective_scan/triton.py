"""The selective scan in Triton: every variant, on any GPU, deterministic (no atomics).

This module allocates memory and launches kernels. Shapes and tuning are in `triton_plan`, the recurrence in
`triton_tile`, the kernels in `triton_forward` and `triton_backward`.
"""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from kernels.selective_scan import triton_plan
from kernels.selective_scan.arguments import ScanArguments, ScanGradients, is_constant
from kernels.selective_scan.triton_backward import backward_kernel
from kernels.selective_scan.triton_forward import (
    pass_states_kernel,
    scan_kernel,
    segment_end_kernel,
    step_kernel,
)
from kernels.selective_scan.triton_plan import Plan, as_real

__all__ = ["backward", "forward", "new_checkpoints", "step"]


def new_checkpoints(arguments: ScanArguments) -> Tensor:
    """Return room for the states on entry to each chunk of positions, in the order of the scan.

    In fp32 they take N / 16 bytes per element of x, or N / 8 where A is complex.
    """
    batch, length, _ = arguments.x.shape
    return arguments.A.new_empty(batch, triton.cdiv(length, triton_plan.CHUNK), *arguments.A.shape)


def forward(arguments: ScanArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state and the checkpoints, for contiguous arguments."""
    arguments = arguments.with_common_groups()
    x, dt, A, B, C, D, z, dt_bias, _, initial_state, _, _ = arguments
    length = x.shape[1]
    plan = triton_plan.plan_forward(arguments)
    initial = as_real(initial_state)
    sequences = _sequence_of_positions(arguments)
    y = torch.empty_like(x)
    checkpoints = new_checkpoints(arguments)
    if initial_state is None:
        final_state = A.new_zeros(arguments.sequences, *A.shape)
    else:
        final_state = initial_state.clone()
    with torch.cuda.device_of(x):
        entry_states = _segment_entry_states(arguments, plan, x, B, None, initial, sequences, adjoint=False)
        scan_kernel[(plan.programs,)](
            x, dt, as_real(A), B, C, D, z, dt_bias, entry_states, initial, sequences,
            y, as_real(final_state), as_real(checkpoints), length, plan.segment_length, plan.segments,
            spec=plan.spec, num_warps=1,
        )  # fmt: skip
    return y, final_state, checkpoints


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, arguments: ScanArguments, checkpoints: Tensor
) -> ScanGradients:
    """Return the gradients, those of parameters in fp32, from contiguous arguments."""
    own_B, own_C = arguments.B, arguments.C
    arguments = arguments.with_common_groups()
    x, dt, A, B, C, D, z, dt_bias, _, initial_state, _, _ = arguments
    batch, length, channels = x.shape
    plan = triton_plan.plan_backward(arguments)
    spec, row_segments = plan.spec, batch * plan.segments

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, device=x.device)

    grad_x, grad_dt = torch.empty_like(x), torch.empty_like(dt)
    grad_z = None if z is None else torch.empty_like(z)
    grad_A = new(row_segments, *as_real(A).shape)
    grad_B = new(row_segments if spec.constant_b else plan.splits, *B.shape)
    grad_C = new(row_segments if spec.constant_c else plan.splits, *C.shape)
    grad_D = None if D is None else new(row_segments, channels)
    grad_dt_bias = None if dt_bias is None else new(row_segments, channels)
    grad_initial = None
    if initial_state is not None:  # keeps this value where a sequence is empty
        grad_initial = (
            torch.zeros_like(initial_state) if grad_final_state is None else grad_final_state.clone()
        )
    # The kernels hold the conjugates of adjoints.
    grad_final = None if grad_final_state is None else as_real(grad_final_state.conj_physical())
    scratch = new(plan.programs, spec.chunk // spec.block, spec.width * spec.size * spec.parts)
    sequences = _sequence_of_positions(arguments)
    with torch.cuda.device_of(x):
        entry_adjoints = _segment_entry_states(
            arguments, plan, grad_y, C, z, grad_final, sequences, adjoint=True
        )
        backward_kernel[(plan.programs,)](
            grad_y, x, dt, as_real(A), B, C, D, z, dt_bias, as_real(initial_state), grad_final, sequences,
            as_real(checkpoints), entry_adjoints, grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z,
            grad_dt_bias, as_real(grad_initial), scratch, length, plan.segment_length, plan.segments,
            plan.splits, plan.items, spec=spec, num_warps=1, maxnreg=triton_plan.BACKWARD.registers,
        )  # fmt: skip
    total_A = grad_A.sum(0)
    return ScanGradients(
        x=grad_x,
        dt=grad_dt,
        A=torch.view_as_complex(total_A) if A.is_complex() else total_A,
        B=_sum_weights(grad_B, own_B, A),
        C=_sum_weights(grad_C, own_C, A),
        D=None if grad_D is None else grad_D.sum(0),
        z=grad_z,
        dt_bias=None if grad_dt_bias is None else grad_dt_bias.sum(0),
        initial_state=grad_initial,
    )


def step(arguments: ScanArguments) -> Tensor:
    """Return y (batch, channels) for one position and update `initial_state` in place.

    A CUDA graph can capture it.
    """
    arguments = arguments.with_common_groups()
    x, dt, A, B, C, D, z, dt_bias, _, state, _, _ = arguments
    spec = triton_plan.make_spec(arguments, triton_plan.FORWARD)
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        step_kernel[(len(x) * spec.tiles,)](
            as_real(state), x, dt, as_real(A), B, C, D, z, dt_bias, y, spec=spec, num_warps=1
        )
    return y


def _segment_entry_states(
    arguments: ScanArguments,
    plan: Plan,
    signal: Tensor,
    weights: Tensor,
    z: Tensor | None,
    boundary: Tensor | None,
    sequences: Tensor | None,
    *,
    adjoint: bool,
) -> Tensor | None:
    """Return the states, or for the backward the adjoints, that enter each segment.

    Args:
        signal, weights, z: x, B and None, or for the adjoints grad_y, C and z.
        boundary: the initial states, or the conjugates of the final states' gradients, as reals.
        sequences: the packed sequence of each position, or None.

    Returns:
        (batch * segments, channels, states), with a last axis of 2 where A is complex; None for zeros.
    """
    batch, length, channels = signal.shape
    if plan.segments == 1:
        return boundary if sequences is None else None
    A, dt, spec = as_real(arguments.A), arguments.dt, plan.spec
    states = torch.empty(batch * plan.segments, *A.shape, device=signal.device)
    sums = torch.empty(batch * plan.segments, channels, device=signal.device)
    segment_end_kernel[(batch * plan.segments * spec.tiles,)](
        signal, dt, A, weights, z, arguments.dt_bias, boundary, sequences, states, sums,
        length, plan.segment_length, plan.segments, adjoint=adjoint,
        constant=spec.constant_c if adjoint else spec.constant_b, spec=spec, num_warps=1,
    )  # fmt: skip
    narrow = replace(spec, groups=1, width=max(1, triton_plan.PASS_REALS // (spec.size * spec.parts)))
    pass_states_kernel[(batch * narrow.tiles,)](
        A, boundary, sequences, states, sums, length, plan.segment_length, plan.segments,
        adjoint=adjoint, spec=narrow, num_warps=1,
    )  # fmt: skip
    return states


def _sequence_of_positions(arguments: ScanArguments) -> Tensor | None:
    """Return the index of the sequence of each position, (length + 2,) int32, with -1 at both ends."""
    cu_seqlens, length = arguments.cu_seqlens, arguments.x.shape[1]
    if cu_seqlens is None:
        return None
    positions = torch.arange(-1, length + 1, device=cu_seqlens.device)
    sequences = torch.bucketize(positions, cu_seqlens.to(torch.int64), right=True, out_int32=True) - 1
    return sequences.masked_fill_(positions == length, -1)


def _sum_weights(partial: Tensor, weights: Tensor, A: Tensor) -> Tensor:
    """Return the sum of partial gradients of B or C, also over groups that repeat those of `weights`."""
    total = partial[0] if len(partial) == 1 else partial.sum(0)
    if is_constant(weights, A) or weights.shape[2] == total.shape[2]:
        return total
    return total.unflatten(2, (weights.shape[2], -1)).sum(3)
