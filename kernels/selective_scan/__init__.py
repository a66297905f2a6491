"""The selective scan, Mamba's recurrence, with initial and final state, and its single step."""

import torch
from torch import Tensor

from kernels.checks import check_cu_seqlens, check_device, check_float, check_shape
from kernels.selective_scan import operators, reference
from kernels.selective_scan.arguments import STEP, ScanArguments

__all__ = ["selective_scan", "selective_scan_step"]


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = (C_t h_t + D x_t) silu(z_t) over time.

    x, dt, z: (batch, length, channels), float64, float32, bfloat16 or float16. Without z there is no gate.
    A: (channels, N) float32 or complex64 (float64 or complex128 where x is float64), real parts negative.
        N complex states represent 2N real ones in conjugate pairs: y_t = 2 Re(sum C_t h_t).
    B, C: (batch, length, N), or (batch, length, groups, N) with channel d in group d // (channels / groups),
        or constant over time (channels, N). With complex A they are real with a last axis of 2: (re, im).
    D, dt_bias: (channels,) or None. dt_bias is added to dt, then softplus applied if `dt_softplus`, in fp32.
    initial_state: (batch, channels, N) in the dtype of A; None means zeros.
    cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to length, when x (1, length, channels) packs
        sequences end to end; states are then (sequences, channels, N) and the state resets at each boundary.
        The values are checked on the CPU only, because on a GPU the check would stall the stream.
    reverse: scan each sequence from its end to its start; the initial state enters at the end.

    Returns y, shaped and typed as x; with `return_final_state` (y, final_state), final_state (batch or
    sequences, channels, N) in the dtype of A. States and sums are fp32 (fp64 where x is float64).
    Differentiable once in every float argument and through both outputs (float64: any number of times).
    Raises ValueError for an argument that does not fit the others.

    Gu and Dao 2023, section 3.2 and algorithm 2; complex states as in section 3.6 and Gu et al. 2022 (S4D).
    """
    if x.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; it should be (batch, length, channels).")
    arguments = ScanArguments(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, cu_seqlens, reverse)
    _check(arguments)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, x)
    if initial_state is not None:
        _check_state("initial_state", initial_state, A, arguments.sequences)
    arguments = _with_groups(arguments)
    if x.dtype == torch.float64:
        y, final_state = reference.selective_scan(arguments)
    else:
        y, final_state, _ = operators.selective_scan(*arguments)
    return (y, final_state) if return_final_state else y


def selective_scan_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Return y (batch, channels) for the next position, updating `state` (batch, channels, N) in place.

    x, dt, z: (batch, channels). B, C: (batch, N), (batch, groups, N) or constant (channels, N). Where batch
    equals channels, (batch, N) and (channels, N) are the same shape and raise ValueError: pass (batch, 1, N)
    or (batch, channels, N). The other arguments are those of `selective_scan`. There is no gradient.
    """
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it should be (batch, channels).")
    arguments = ScanArguments(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state=state)
    _check(arguments)
    _check_state("state", state, A, len(x))
    arguments = _with_groups(arguments)
    if x.dtype == torch.float64:
        return reference.selective_scan_step(arguments)
    return operators.selective_scan_step(state, *arguments[: len(STEP)])


def _check(arguments: ScanArguments) -> None:
    """Raise ValueError unless dtypes, devices and shapes fit x, except the shapes of B and C."""
    x, dt, A, B, C, D, z, dt_bias, *_ = arguments
    check_float("x", x)
    channels = x.shape[-1]
    is_double = x.dtype == torch.float64
    real, paired = (torch.float64, torch.complex128) if is_double else (torch.float32, torch.complex64)
    if A.dtype not in (real, paired):
        raise ValueError(f"A is {A.dtype}; it should be {real} or {paired} for x in {x.dtype}.")
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"A has shape {tuple(A.shape)}; it should be (channels, N) = ({channels}, 1 or more)."
        )
    check_device("A", A, x)
    for name, tensor in (("dt", dt), ("z", z)):
        if tensor is not None:
            check_float(name, tensor)
            check_shape(name, tensor, x.shape, "the shape of x")
            check_device(name, tensor, x)
    for name, tensor in (("D", D), ("dt_bias", dt_bias)):
        if tensor is not None:
            check_float(name, tensor)
            check_shape(name, tensor, (channels,), "(channels,)")
            check_device(name, tensor, x)
    for name, tensor in (("B", B), ("C", C)):
        check_float(name, tensor)
        check_device(name, tensor, x)


def _check_state(name: str, state: Tensor, A: Tensor, sequences: int) -> None:
    """Raise ValueError unless `state` is (sequences, channels, N) in the dtype of A."""
    check_shape(name, state, (sequences, *A.shape), "(sequences, channels, N)")
    check_device(name, state, A)
    if state.dtype != A.dtype:
        raise ValueError(f"{name} is {state.dtype}; it should be {A.dtype}, as A is.")


def _with_groups(arguments: ScanArguments) -> ScanArguments:
    """Return the same arguments with B and C constant (channels, N) or varying (..., groups, N)."""
    x, _, A, B, C, *_ = arguments
    return arguments._replace(B=_add_group_axis("B", B, x, A), C=_add_group_axis("C", C, x, A))


def _add_group_axis(name: str, parameter: Tensor, x: Tensor, A: Tensor) -> Tensor:
    pair = (2,) if A.is_complex() else ()
    channels, states = A.shape
    shape, leading = tuple(parameter.shape), tuple(x.shape[:-1])
    constant = (channels, states, *pair)
    if shape == (*leading, states, *pair):
        if shape == constant:
            raise ValueError(
                f"{name} has shape {shape}, which is both (batch, N) and (channels, N); it should be "
                "(batch, 1, N) if it varies over the batch, (batch, channels, N) if over the channels."
            )
        return parameter.unsqueeze(len(leading))
    groups = shape[len(leading)] if len(shape) > len(leading) else 0
    grouped = groups > 0 and channels % groups == 0 and shape == (*leading, groups, states, *pair)
    if shape == constant or grouped:
        return parameter
    raise ValueError(
        f"{name} has shape {shape}; it should be {(*leading, states, *pair)}, or with an axis of groups that "
        f"divides {channels} channels before the {states} states, or constant {constant}, as x and A imply."
    )
