"""The pre-norm residual block: add, RMSNorm, mixer."""

import torch
from torch import Tensor, nn

from core.layers.mamba import Mamba, MambaState
from kernels import rms_norm


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, fused with the residual add before it."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """hidden, residual (..., d_model) -> the normalised sum in hidden's dtype, and the sum in float32."""
        return rms_norm(hidden, self.weight, residual, self.eps)


class Block(nn.Module):
    """Adds the mixer's last output to the residual stream, normalises the sum, mixes.

    Maps (hidden, residual) to the same pair, so that the add is left to the next block's norm, where one
    kernel does both. The residual stream is float32.
    """

    def __init__(self, d_model: int, mixer: Mamba) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.mixer = mixer

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        state: MambaState | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MambaState]:
        """hidden, residual (batch, length, d_model) -> (hidden, residual[, the state after them]).

        residual is None in the first block; state and cu_seqlens are the mixer's.
        """
        normed, residual = self.norm(hidden, residual)
        if state is None:
            return self.mixer(normed, cu_seqlens=cu_seqlens), residual
        hidden, state = self.mixer(normed, state, cu_seqlens)
        return hidden, residual, state

    def step(
        self, hidden: Tensor, residual: Tensor | None, state: MambaState
    ) -> tuple[Tensor, Tensor, MambaState]:
        """One position of forward: hidden, residual (batch, d_model). The given state is overwritten."""
        normed, residual = self.norm(hidden, residual)
        hidden, state = self.mixer.step(normed, state)
        return hidden, residual, state
