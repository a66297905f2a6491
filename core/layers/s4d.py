"""The block that Mamba replaced in SaShiMi (Goel et al. 2022): an S4D layer, then an MLP."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from core.layers.block import RMSNorm
from core.layers.ssm_init import (
    initial_a_imag,
    initial_a_log,
    initial_b,
    initial_c,
    initial_dt_bias,
    without_decay,
)
from kernels import selective_scan, selective_scan_step


class S4D(nn.Module):
    """Maps (batch, length, d_model) to the same shape: a linear, time-invariant recurrence of each channel.

    S4D-Lin (Gu et al. 2022) with d_state / 2 conjugate pairs of states, GELU, and a gated projection (GLU).
    The state is (batch, d_model, d_state / 2) complex64.
    """

    def __init__(self, d_model: int, d_state: int) -> None:
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state is {d_state}; complex states are conjugate pairs, so it must be even.")
        self.dt_bias = without_decay(initial_dt_bias(d_model))
        self.A_log = without_decay(initial_a_log(d_model, d_state, paired=True))
        self.A_imag = without_decay(initial_a_imag(d_model, d_state))
        self.B = without_decay(initial_b(d_model, d_state, paired=True))
        self.C = without_decay(initial_c(d_model, d_state, paired=True))
        self.D = without_decay(torch.ones(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first position: zeros, on the layer's device."""
        return self.A_log.new_zeros(batch_size, *self.A_log.shape, dtype=torch.complex64)

    def forward(
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (batch, length, d_model) -> (y of the same shape, the state after x); arguments as Mamba's."""
        y, final_state = selective_scan(
            x,
            *self._dynamics(x, self.B, self.C),
            initial_state=state,
            cu_seqlens=cu_seqlens,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            return_final_state=True,
        )
        return self._mixed(y), final_state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        state = state.detach()
        # a step's constants have the batch axis: without it (channels, N) could be taken for (batch, N)
        B, C = (constant.expand(len(x), *constant.shape) for constant in (self.B, self.C))
        dynamics = self._dynamics(x, B, C)
        y = selective_scan_step(state, x, *dynamics, dt_bias=self.dt_bias, dt_softplus=True)
        return self._mixed(y), state

    def _dynamics(self, x: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dt (without its bias), A, B, C and D of a scan over x."""
        A = torch.complex(-torch.exp(self.A_log), self.A_imag)
        return x.new_zeros(()).expand_as(x), A, B, C, self.D

    def _mixed(self, y: Tensor) -> Tensor:
        return glu(self.out_proj(gelu(y)))


class S4DBlock(nn.Module):
    """The pre-norm residual block of S4D and an MLP of twice the width; it has about Mamba's parameters.

    Maps (hidden, residual) to the same pair, as core.layers.block.Block.
    """

    def __init__(self, d_model: int, d_state: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.mixer = S4D(d_model, d_state)
        self.mlp_norm = RMSNorm(d_model)
        self.in_proj = nn.Linear(d_model, 2 * d_model)
        self.out_proj = nn.Linear(2 * d_model, d_model)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """hidden, residual (batch, length, d_model) -> (hidden, residual[, the state after them])."""
        normed, residual = self.norm(hidden, residual)
        mixed, final_state = self.mixer(normed, state, cu_seqlens)
        hidden = self._with_mlp(mixed, residual)
        return (hidden, residual) if state is None else (hidden, residual, final_state)

    def step(self, hidden: Tensor, residual: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One position of forward: hidden, residual (batch, d_model). The given state is overwritten."""
        normed, residual = self.norm(hidden, residual)
        mixed, state = self.mixer.step(normed, state)
        return self._with_mlp(mixed, residual), residual, state

    def _with_mlp(self, mixed: Tensor, residual: Tensor) -> Tensor:
        """What S4D and the MLP, which reads the stream behind it, add to the stream."""
        normed, _ = self.mlp_norm(mixed, residual)
        return mixed + self.out_proj(gelu(self.in_proj(normed)))
