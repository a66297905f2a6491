"""The Mamba mixer (Gu and Dao 2023, sections 3.4 to 3.6): selective or time-invariant, real or complex."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from core.layers.plain import is_plain, widen
from core.layers.ssm_init import initial_a_imag, initial_a_log, initial_b, initial_c, initial_dt_bias
from kernels import causal_conv1d, causal_conv1d_step, selective_scan, selective_scan_step


class MambaState(NamedTuple):
    """State of a mixer between two calls; the first axis is the batch, or the packed sequence.

    conv: (batch, d_conv - 1, d_inner), last inputs of the convolution, oldest first.
    ssm: (batch, d_inner, N), float32 with N = d_state, or complex64 with N = d_state / 2; twice as wide
        types in a float64 model.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """A gated, causal, linear recurrence over time that maps (batch, length, d_model) to the same shape.

    Parameters have the names and shapes of the published checkpoints; d_inner = expand * d_model, and
    dt_rank is ceil(d_model / 16) by default. Under autocast the matrix products are in its dtype; A_log, D,
    the bias of dt and the state stay float32 (float64 in a float64 model).

    A projection or convolution that is not plain (core/layers/plain.py), such as an adapter or a module with
    hooks, is called as a module. Those of plain modules are fused into the kernels.

    complex: d_state / 2 conjugate pairs (S4D-Lin, A_n = -1/2 + i n) instead of d_state real states
        (S4D-Real, A_n = -(n + 1)); the number of parameters is the same.
    selective: which of dt, B and C depend on the input: True for all (S6), False for none (a time-invariant
        S4D), or a sequence of names, for example ("dt",). The others are constant parameters of each channel,
        initialised as in S4D.

    Raises ValueError for a size below 1, an odd d_state with complex, or an unknown name in selective.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        complex: bool = False,  # noqa: A002
        selective: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        if dt_rank is None:
            dt_rank = math.ceil(d_model / 16)
        sizes = {
            "d_model": d_model,
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "dt_rank": dt_rank,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1.")
        if complex and d_state % 2:
            raise ValueError(f"d_state is {d_state}; complex states are conjugate pairs, so it must be even.")
        self.d_inner = d_inner = expand * d_model
        self.d_conv = d_conv
        self.complex = complex
        self.selected = _selected_widths(selective, {"dt": dt_rank, "B": d_state, "C": d_state})

        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        if self.selected:
            self.x_proj = nn.Linear(d_inner, sum(self.selected.values()), bias=False)
        if "dt" in self.selected:
            self.dt_proj = nn.Linear(dt_rank, d_inner)
            nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
            self.dt_proj.bias.data = initial_dt_bias(d_inner)
        else:
            self.dt_bias = nn.Parameter(initial_dt_bias(d_inner))
        self.A_log = nn.Parameter(initial_a_log(d_inner, d_state, complex))
        if complex:
            self.A_imag = nn.Parameter(initial_a_imag(d_inner, d_state))
        self.B = None if "B" in self.selected else nn.Parameter(initial_b(d_inner, d_state, complex))
        self.C = None if "C" in self.selected else nn.Parameter(initial_c(d_inner, d_state, complex))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def initial_state(self, batch_size: int) -> MambaState:
        """Return the state before the first position: zeros, on the mixer's device."""
        D = self.D
        dtype = torch.promote_types(D.dtype, torch.float32)
        return MambaState(
            D.new_zeros(batch_size, self.d_conv - 1, self.d_inner),
            D.new_zeros(batch_size, *self.A_log.shape, dtype=dtype.to_complex() if self.complex else dtype),
        )

    @overload
    def forward(self, x: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, state: MambaState, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MambaState]: ...

    def forward(
        self, x: Tensor, state: MambaState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Return y, shaped like x (batch, length, d_model), or (y, final state) if a state is given.

        cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to the length, if x (1, length, d_model)
            packs sequences end to end, each with its own row of state.
        Gradients flow through both states.
        """
        conv, ssm = (None, None) if state is None else state
        if is_plain(self.in_proj) and self.in_proj.bias is None:
            # two products make both results contiguous
            u, z = (linear(x, weight) for weight in self.in_proj.weight.chunk(2))
        else:
            u, z = self.in_proj(x).chunk(2, dim=-1)
        if is_plain(self.conv1d):
            u, conv = causal_conv1d(
                u,
                self.conv1d.weight.squeeze(1),
                self.conv1d.bias,
                "silu",
                initial_state=conv,
                cu_seqlens=cu_seqlens,
                return_final_state=True,
            )
        else:
            u, conv = self._call_conv1d(u, conv, cu_seqlens)
        y, ssm = selective_scan(
            u,
            **self._scan_inputs(u),
            z=z,
            dt_softplus=True,
            initial_state=ssm,
            cu_seqlens=cu_seqlens,
            return_final_state=True,
        )
        y = self.out_proj(y)
        return y if state is None else (y, MambaState(conv, ssm))

    @torch.no_grad()
    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Run one position of forward: x (batch, d_model) -> (y, state), without gradients.

        The given state is overwritten and returned.
        """
        state = MambaState(state.conv.detach(), state.ssm.detach())
        u, z = self.in_proj(x).chunk(2, dim=-1)
        conv1d = self.conv1d
        if is_plain(conv1d):
            u = causal_conv1d_step(state.conv, u, conv1d.weight.squeeze(1), conv1d.bias, "silu")
        else:
            outputs, last_inputs = self._call_conv1d(u[:, None], state.conv, None)
            u = outputs[:, 0]
            state.conv.copy_(last_inputs)
        y = selective_scan_step(state.ssm, u, **self._scan_inputs(u), z=z, dt_softplus=True)
        return self.out_proj(y), state

    def _scan_inputs(self, u: Tensor) -> dict[str, Any]:
        """Return the other inputs of the scan over u (..., d_inner): dt, A, B, C, D and dt_bias."""
        projected: dict[str, Tensor] = {}
        if self.selected:
            parts = self.x_proj(u).split(list(self.selected.values()), dim=-1)
            projected = dict(zip(self.selected, parts, strict=True))
        if "dt" in projected:
            dt_proj = self.dt_proj
            if is_plain(dt_proj) and dt_proj.bias is not None:  # the kernel adds the bias in fp32
                dt, dt_bias = linear(projected["dt"], dt_proj.weight), widen(dt_proj.bias)
            else:
                dt, dt_bias = self.dt_proj(projected["dt"]), None
        else:
            dt, dt_bias = u.new_zeros(()).expand_as(u), widen(self.dt_bias)
        A = -torch.exp(widen(self.A_log))
        if self.complex:
            A = torch.complex(A, widen(self.A_imag))
        B = self._states(u, projected.get("B"), self.B)
        C = self._states(u, projected.get("C"), self.C)
        return {"dt": dt, "A": A, "B": B, "C": C, "D": widen(self.D), "dt_bias": dt_bias}

    def _call_conv1d(
        self, u: Tensor, state: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the same as causal_conv1d with silu, by calls of conv1d (one per packed sequence)."""
        if cu_seqlens is not None:
            sequences = u.split(cu_seqlens.diff().tolist(), dim=1)
            states = [None] * len(sequences) if state is None else state.split(1)
            pairs = zip(sequences, states, strict=True)
            outputs, finals = zip(*(self._call_conv1d(*pair, None) for pair in pairs), strict=True)
            return torch.cat(outputs, dim=1), torch.cat(finals)
        shape = len(u), self.d_conv - 1, self.d_inner
        past = u.new_zeros(shape) if state is None else state.to(u.dtype)
        if u.shape[1] == 0:
            return u, past
        inputs, length = torch.cat([past, u], dim=1), u.shape[1]
        outputs = self.conv1d(inputs.mT)[..., self.d_conv - 1 :][..., :length]
        return silu(outputs).mT, inputs[:, length:]

    def _states(self, u: Tensor, projected: Tensor | None, constant: Tensor | None) -> Tensor:
        """Return B or C: the projection of u as one group of states (..., 1, N), or else the constant.

        The constant of a step gets a batch axis, because (channels, N) could be read as (batch, N).
        """
        if constant is None:
            assert projected is not None
            return projected.unflatten(-1, (1, -1, 2) if self.complex else (1, -1))
        return constant if u.dim() == 3 else constant.expand(len(u), *constant.shape)


def _selected_widths(selective: bool | Sequence[str], widths: dict[str, int]) -> dict[str, int]:
    """Return the widths of dt, B and C, without those that do not depend on the input."""
    names = selective if not isinstance(selective, bool) else list(widths) if selective else []
    if not isinstance(names, list | tuple) or not set(names) <= set(widths):
        raise ValueError(
            f"selective is {selective!r}; it must be true, false, or a list of names from {list(widths)}."
        )
    return {name: width for name, width in widths.items() if name in names}
