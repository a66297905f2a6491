"""The block of SaShiMi (Goel et al. 2022) that Mamba replaces: an S4D layer, then an MLP."""

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from core.layers.block import RMSNorm
from core.layers.plain import widen
from core.layers.ssm_init import initial_a_imag, initial_a_log, initial_b, initial_c, initial_dt_bias
from kernels import selective_scan, selective_scan_step


class S4D(nn.Module):
    """A linear, time-invariant recurrence per channel that maps (batch, length, d_model) to the same shape.

    S4D-Lin (Gu et al. 2022) with d_state / 2 conjugate pairs of states, GELU, and a gated projection (GLU).
    The state is (batch, d_model, d_state / 2) complex64 (complex128 in a float64 model).
    """

    def __init__(self, d_model: int, d_state: int) -> None:
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state is {d_state}; complex states are conjugate pairs, so it must be even.")
        self.dt_bias = nn.Parameter(initial_dt_bias(d_model))
        self.A_log = nn.Parameter(initial_a_log(d_model, d_state, paired=True))
        self.A_imag = nn.Parameter(initial_a_imag(d_model, d_state))
        self.B = nn.Parameter(initial_b(d_model, d_state, paired=True))
        self.C = nn.Parameter(initial_c(d_model, d_state, paired=True))
        self.D = nn.Parameter(torch.ones(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the state before the first position: zeros, on the layer's device."""
        dtype = torch.promote_types(self.A_log.dtype, torch.float32).to_complex()
        return self.A_log.new_zeros(batch_size, *self.A_log.shape, dtype=dtype)

    def forward(
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (y, final state) of x (batch, length, d_model); arguments as in Mamba.forward."""
        y, final_state = selective_scan(
            x,
            *self._scan_inputs(x, self.B, self.C),
            initial_state=state,
            cu_seqlens=cu_seqlens,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            return_final_state=True,
        )
        return self._project(y), final_state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        state = state.detach()
        # the constants of a step get a batch axis, because (channels, N) could be read as (batch, N)
        B, C = (constant.expand(len(x), *constant.shape) for constant in (self.B, self.C))
        y = selective_scan_step(state, x, *self._scan_inputs(x, B, C), dt_bias=self.dt_bias, dt_softplus=True)
        return self._project(y), state

    def _scan_inputs(self, x: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return dt (without its bias), A, B, C and D of a scan over x."""
        A = torch.complex(-torch.exp(widen(self.A_log)), widen(self.A_imag))
        return x.new_zeros(()).expand_as(x), A, B, C, self.D

    def _project(self, y: Tensor) -> Tensor:
        return glu(self.out_proj(gelu(y)))


class S4DBlock(nn.Module):
    """The pre-norm residual block of S4D and an MLP of twice the width, about as large as a Mamba block.

    It maps (hidden, residual) to the same pair, like core.layers.block.Block.
    """

    def __init__(self, d_model: int, d_state: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.mixer = S4D(d_model, d_state)
        self.mlp_norm = RMSNorm(d_model)
        self.in_proj = nn.Linear(d_model, 2 * d_model)
        self.out_proj = nn.Linear(2 * d_model, d_model)

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
        self, hidden: Tensor, residual: Tensor | None, state: Tensor, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Return (hidden, residual), and the final state if a state is given; as in Block.forward."""
        normed, residual = self.norm(hidden, residual)
        y, final_state = self.mixer(normed, state, cu_seqlens)
        hidden = self._add_mlp(y, residual)
        return (hidden, residual) if state is None else (hidden, residual, final_state)

    def step(self, hidden: Tensor, residual: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run one position of forward: hidden, residual (batch, d_model). The given state is overwritten."""
        normed, residual = self.norm(hidden, residual)
        y, state = self.mixer.step(normed, state)
        return self._add_mlp(y, residual), residual, state

    def _add_mlp(self, y: Tensor, residual: Tensor) -> Tensor:
        """Return what S4D and the MLP add to the stream; the MLP reads the stream after S4D."""
        normed, _ = self.mlp_norm(y, residual)
        return y + self.out_proj(gelu(self.in_proj(normed)))
