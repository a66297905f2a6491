"""RMS norm (root mean square) with a fused residual add."""

import torch
from torch import Tensor

from kernels.checks import check_device, check_float, check_shape
from kernels.rms_norm import operators, reference


def rms_norm(
    x: Tensor, weight: Tensor, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream and normalize the sum over its channels.

    x: (..., channels), float64, float32, bfloat16 or float16.
    weight: (channels,).
    residual: the shape of x, or None at the start of the stream.
    eps: added to the mean square before the square root.

    Returns (y, residual_out): residual_out = x + residual in fp32 (fp64 for fp64 x), and
    y = residual_out / sqrt(mean(residual_out^2) + eps) * weight in the dtype of x.
    Differentiable once in x, weight and residual, through both outputs; deterministic.
    Raises ValueError if an argument does not fit the others.

    Zhang and Sennrich 2019, equation 4; the published Mamba models have the same fp32 residual stream.
    """
    check_float("x", x)
    if x.dim() == 0:
        raise ValueError("x has shape (); it should be (..., channels).")
    check_float("weight", weight)
    check_device("weight", weight, x)
    check_shape("weight", weight, x.shape[-1:], "(channels,)")
    if residual is not None:
        check_float("residual", residual)
        check_device("residual", residual, x)
        check_shape("residual", residual, x.shape, "the shape of x")
    if x.dtype == torch.float64:
        return reference.rms_norm(x, weight, residual, eps)
    return operators.rms_norm(x, weight, residual, eps)
