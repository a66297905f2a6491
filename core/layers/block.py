"""The pre-norm residual block: add, RMSNorm, mixer."""

from typing import overload

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
        """Return the normalised sum of hidden and residual in hidden's dtype, and the sum in float32.

        hidden, residual: (..., d_model).
        """
        return rms_norm(hidden, self.weight, residual, self.eps)


class Block(nn.Module):
    """Add the previous mixer's output to the residual stream, normalise the sum, and mix it.

    A block maps (hidden, residual) to the same pair, so the next block's norm does its add in one kernel. The
    residual stream is float32.
    """

    def __init__(self, d_model: int, mixer: Mamba) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.mixer = mixer

    @overload
    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        state: None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, hidden: Tensor, residual: Tensor | None, state: MambaState, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, MambaState]: ...

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        state: MambaState | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MambaState]:
        """Return (hidden, residual), and the final state if a state is given.

        hidden, residual: (batch, length, d_model); residual is None in the first block.
        state, cu_seqlens: as in Mamba.forward.
        """
        normed, residual = self.norm(hidden, residual)
        if state is None:
            return self.mixer(normed, cu_seqlens=cu_seqlens), residual
        hidden, state = self.mixer(normed, state, cu_seqlens)
        return hidden, residual, state

    def step(
        self, hidden: Tensor, residual: Tensor | None, state: MambaState
    ) -> tuple[Tensor, Tensor, MambaState]:
        """Run one position of forward: hidden, residual (batch, d_model). The given state is overwritten."""
        normed, residual = self.norm(hidden, residual)
        hidden, state = self.mixer.step(normed, state)
        return hidden, residual, state
