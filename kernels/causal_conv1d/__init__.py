"""Causal depthwise convolution over time, with its state, and its one-step form."""

import torch
from torch import Tensor

from kernels.causal_conv1d import operators, reference
from kernels.checks import check_cu_seqlens, check_device, check_float, check_shape

MAXIMUM_WIDTH = 8


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Filter each channel over time: y_t = activation(bias + sum_k weight_k x_{t-(K-1)+k}).

    x: (batch, length, channels), float64, float32, bfloat16 or float16.
    weight: (channels, K), K from 1 to 8. The last tap is for the current position, as in torch's conv1d.
    bias: (channels,) or None.
    activation: None or "silu".
    initial_state: (batch, K - 1, channels), the positions before the first, oldest first; None means zeros.
    cu_seqlens: (sequences + 1,) int32 or int64, the bounds of sequences packed end to end in x (1, length,
        channels), from 0 to length. States are then (sequences, K - 1, channels), and no sequence reads its
        neighbours. Values are checked on the CPU only, since the check would stall a GPU stream.

    Returns y, with the shape and dtype of x; with `return_final_state` (y, final_state), where final_state
    has the last K - 1 positions in the dtype of x and is the initial state of the next chunk. Arithmetic is
    fp32, or fp64 for fp64 x. Differentiable once in every float argument, deterministic.
    Raises ValueError if an argument does not fit the others.

    The short convolution of the Mamba block (Gu and Dao 2023, figure 3, section 3.4).
    """
    _check(x, weight, bias, activation)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, x)
    if initial_state is not None:
        sequences = len(x) if cu_seqlens is None else len(cu_seqlens) - 1
        _check_state("initial_state", initial_state, x, weight, sequences)
    if x.dtype == torch.float64:
        y, final_state = reference.causal_conv1d(x, weight, bias, activation, initial_state, cu_seqlens)
    else:
        silu = activation == "silu"
        y, final_state = operators.causal_conv1d(
            x, weight, bias, initial_state, cu_seqlens, silu, return_final_state
        )
    return (y, final_state) if return_final_state else y


def causal_conv1d_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Return y (batch, channels) for the next position x (batch, channels), updating `state` in place.

    state: (batch, K - 1, channels), oldest first, any float dtype. Other arguments as in `causal_conv1d`.
    Has no gradient. Raises ValueError if an argument does not fit the others.
    """
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it should be (batch, channels).")
    _check(x.unsqueeze(1), weight, bias, activation)
    _check_state("state", state, x, weight, len(x))
    if x.dtype == torch.float64:
        return reference.causal_conv1d_step(state, x, weight, bias, activation)
    return operators.causal_conv1d_step(state, x, weight, bias, activation == "silu")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    check_float("x", x)
    if x.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; it should be (batch, length, channels).")
    check_float("weight", weight)
    check_device("weight", weight, x)
    if weight.dim() != 2 or weight.shape[0] != x.shape[-1] or not 1 <= weight.shape[1] <= MAXIMUM_WIDTH:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it should be (channels, width) = ({x.shape[-1]}, 1 to "
            f"{MAXIMUM_WIDTH})."
        )
    if bias is not None:
        check_float("bias", bias)
        check_device("bias", bias, x)
        check_shape("bias", bias, (x.shape[-1],), "(channels,)")
    if activation not in (None, "silu"):
        raise ValueError(f'activation is {activation!r}; it should be None or "silu".')


def _check_state(name: str, state: Tensor, x: Tensor, weight: Tensor, sequences: int) -> None:
    check_float(name, state)
    check_device(name, state, x)
    shape = (sequences, weight.shape[1] - 1, x.shape[-1])
    check_shape(name, state, shape, "(sequences, width - 1, channels)")
