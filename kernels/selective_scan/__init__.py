"""The selective scan, the recurrence of Mamba, with its state in and out, and its one-step form."""

from torch import Tensor

from kernels.selective_scan import reference


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
    """Scan; see reference for now."""
    y, final_state = reference.selective_scan(
        x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, cu_seqlens, reverse
    )
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
    """Step; see reference for now."""
    return reference.selective_scan_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
