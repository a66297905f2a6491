"""Pooling of a causal sequence to a slower clock, as in SaShiMi (Goel et al. 2022, section 4.2)."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from core.layers.plain import float_tensor


class Causal(Protocol):
    """A module over (batch, length, channels) whose outputs depend on no later input."""

    def __call__(self, x: Tensor, state: Any = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return (y, final state), y shaped like x; the final state may be None if no state is given."""

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run one position: x (batch, channels) -> (y, state). The given state is overwritten."""

    def initial_state(self, batch_size: int) -> Any:
        """Return the state before the first position."""


class PooledState(NamedTuple):
    """State of a Pooled module between two calls.

    phase: index of the next position in its frame, 0 to pool - 1. It is an int, not a tensor: the host knows
        which kernels a step runs, so the steps of one turn of the clock can be captured in a CUDA graph.
    inputs: (batch, pool, d_model), the frame being read, valid before `phase`.
    outputs: (batch, pool, d_model), the frame being written, pending from `phase` on.
    inner: state of the inner module.
    """

    phase: int
    inputs: Tensor
    outputs: Tensor
    inner: Any


class Pooled(nn.Module):
    """A causal module of 2 * d_model channels that runs once every `pool` positions, between two projections.

    A frame of `pool` positions becomes one position of the inner module, and the inner output becomes a
    frame. A frame is complete only at its last position, so its result is added to the next frame; the output
    for the first frame is zero. An unfinished last frame has no effect.
    """

    def __init__(self, inner: Causal, d_model: int, pool: int) -> None:
        super().__init__()
        self.d_model, self.pool = d_model, pool
        self.down = nn.Linear(pool * d_model, 2 * d_model)
        self.inner = inner
        self.up = nn.Linear(2 * d_model, pool * d_model)

    def initial_state(self, batch_size: int) -> PooledState:
        """Return the state before the first position, on the module's device."""
        inputs, outputs = self._zero_frame(batch_size), self._zero_frame(batch_size)
        return PooledState(0, inputs, outputs, self.inner.initial_state(batch_size))

    def forward(
        self, x: Tensor, state: PooledState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, PooledState | None]:
        """Return (y, final state), y shaped like x (batch, length, d_model); None if no state is given.

        state: may be at any phase.
        cu_seqlens: (sequences + 1,), bounds of packed sequences, multiples of the pool. The output for the
            first frame of each sequence is zero, as without a state.
        """
        if cu_seqlens is not None:
            return self._packed(x, cu_seqlens // self.pool), None
        if state is None:
            read, written, inner = x, self._zero_frame(len(x)), None
        else:
            read = torch.cat([state.inputs[:, : state.phase], x], dim=1)
            written, inner = state.outputs[:, state.phase :], state.inner
        count, phase = divmod(read.shape[1], self.pool)
        whole, unfinished = read.split([count * self.pool, phase], dim=1)
        if count:
            frames, inner = self.inner(self._compress(whole.unflatten(1, (count, self.pool))), inner)
            written = torch.cat([written, self._expand(frames).flatten(1, 2)], dim=1)
        y, unused = written.split([x.shape[1], self.pool - phase], dim=1)
        if state is None:
            return y, None
        inputs = pad(unfinished, (0, 0, 0, self.pool - phase))
        return y, PooledState(phase, inputs, pad(unused, (0, 0, phase, 0)), inner)

    def step(self, x: Tensor, state: PooledState) -> tuple[Tensor, PooledState]:
        """Run one position of forward: x (batch, d_model) -> (y, state). Call it without gradients.

        The inner module steps at the end of a frame. The tensors of the given state are overwritten.
        """
        phase, inputs, outputs, inner = state
        inputs, outputs = inputs.detach(), outputs.detach()
        inputs[:, phase] = x
        y = outputs[:, phase].clone()
        if phase + 1 == self.pool:
            frame, inner = self.inner.step(self._compress(inputs), inner)
            outputs.copy_(self._expand(frame))
        return y, PooledState((phase + 1) % self.pool, inputs, outputs, inner)

    def _packed(self, x: Tensor, bounds: Tensor) -> Tensor:
        """Run forward on packed sequences of whole frames; bounds (sequences + 1,) are in frames."""
        frames, _ = self.inner(self._compress(x.unflatten(1, (-1, self.pool))), None, bounds)
        shifted = pad(self._expand(frames), (0, 0, 0, 0, 1, 0))[:, :-1]
        is_first = torch.zeros(shifted.shape[1] + 1, dtype=torch.bool, device=x.device)
        is_first = is_first.index_fill(0, bounds.long(), True)[:-1]
        return shifted.masked_fill(is_first[:, None, None], 0).flatten(1, 2)

    def _compress(self, frames: Tensor) -> Tensor:
        """Project frames (..., pool, d_model) to positions (..., 2 * d_model)."""
        return self.down(frames.flatten(-2))

    def _expand(self, frames: Tensor) -> Tensor:
        """Project positions (..., 2 * d_model) to frames (..., pool, d_model)."""
        return self.up(frames).unflatten(-1, (self.pool, self.d_model))

    def _zero_frame(self, batch_size: int) -> Tensor:
        return float_tensor(self).new_zeros(batch_size, self.pool, self.d_model)
