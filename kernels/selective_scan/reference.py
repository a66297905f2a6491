"""Definition of the selective scan: a plain loop over time, any dtype, differentiable by autograd.

Gu and Dao 2023, algorithm 2: A by zero-order hold, B by Euler's rule.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from kernels.selective_scan.arguments import ScanArguments


def selective_scan(arguments: ScanArguments) -> tuple[Tensor, Tensor]:
    """Return y, shaped and typed as x, and the final state (sequences, channels, N).

    B and C have the shapes that `kernels.selective_scan` accepts, with or without an axis of groups.
    Arithmetic is in fp32 and complex64, or in fp64 and complex128 where x is fp64.
    """
    x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, cu_seqlens, reverse = arguments
    length, channels = x.shape[1:]
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs = x.to(work)
    dt = dt.to(work) if dt_bias is None else dt.to(work) + dt_bias.to(work)
    dt = softplus(dt, threshold=20.0) if dt_softplus else dt
    state_type = work.to_complex() if A.is_complex() else work
    A = A.to(state_type)
    B_t, C_t = (_over_time(parameter, A, work, length) for parameter in (B, C))

    bounds = [0, length] if cu_seqlens is None else cu_seqlens.tolist()
    rows = x.shape[0] if cu_seqlens is None else 1
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    for index, (start, end) in enumerate(pairwise(bounds)):
        if initial_state is None:
            state = torch.zeros(rows, channels, A.shape[1], dtype=state_type, device=x.device)
        elif cu_seqlens is None:
            state = initial_state.to(state_type)
        else:
            state = initial_state[index : index + 1].to(state_type)
        steps = []
        for t in reversed(range(start, end)) if reverse else range(start, end):
            dt_t = dt[:, t, :, None]
            state = torch.exp(dt_t * A) * state + dt_t * B_t[t] * inputs[:, t, :, None]
            products = C_t[t] * state
            steps.append(2 * products.real.sum(-1) if A.is_complex() else products.sum(-1))
        outputs += steps[::-1] if reverse else steps
        states.append(state)

    if not states:
        states = [torch.zeros(0, channels, A.shape[1], dtype=state_type, device=x.device)]
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(inputs)
    if D is not None:
        y = y + D.to(work) * inputs
    if z is not None:
        y = y * silu(z.to(work))
    return y.to(x.dtype), torch.cat(states)


def selective_scan_step(arguments: ScanArguments) -> Tensor:
    """Return y (batch, channels) for one position and update `initial_state` in place."""
    state = arguments.initial_state
    assert state is not None
    z = None if arguments.z is None else arguments.z.unsqueeze(1)
    B, C = (
        weights if _is_constant(weights, arguments.A) else weights.unsqueeze(1)
        for weights in (arguments.B, arguments.C)
    )
    position = arguments._replace(
        x=arguments.x.unsqueeze(1), dt=arguments.dt.unsqueeze(1), B=B, C=C, z=z, reverse=False
    )
    y, final_state = selective_scan(position)
    state.copy_(final_state)
    return y.squeeze(1)


def _is_constant(parameter: Tensor, A: Tensor) -> bool:
    """Return whether B or C is (channels, N); unlike `arguments.is_constant`, an axis of groups may lack."""
    return parameter.shape[: parameter.dim() - A.is_complex()] == A.shape


def _over_time(parameter: Tensor, A: Tensor, work: torch.dtype, length: int) -> list[Tensor]:
    """Return B or C at each position, (1 or batch, channels, N), in the dtype of A."""
    constant = _is_constant(parameter, A)
    grouped = parameter.dim() == 4 + A.is_complex()
    parameter = parameter.to(work)
    if A.is_complex():
        parameter = torch.complex(*parameter.unbind(-1))
    if constant:
        return [parameter.unsqueeze(0)] * length
    if not grouped:
        return list(parameter.unsqueeze(2).unbind(1))
    return list(parameter.repeat_interleave(len(A) // parameter.shape[2], dim=2).unbind(1))
