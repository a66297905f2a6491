"""Definition of the RMS norm with a fused residual add, differentiable by autograd."""

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Return (y, residual_out), arguments as in `kernels.rms_norm`; in fp32, or fp64 for fp64 x."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    residual_out = x.to(work) if residual is None else x.to(work) + residual.to(work)
    mean_square = residual_out.square().mean(-1, keepdim=True)
    y = residual_out * torch.rsqrt(mean_square + eps) * weight.to(work)
    return y.to(x.dtype), residual_out
