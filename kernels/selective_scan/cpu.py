"""The selective scan on the CPU: memory, layouts and threads around the loops that numba compiles.

Inside, all is fp32, channels come last, each group is padded to whole vectors of channels, and states are
(..., N, parts, channels), parts 1 (real) or 2 (complex).
"""

from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.lanes import COMPLEX, LANES, REAL, Kind
from kernels.layout import address
from kernels.selective_scan import cpu_backward, cpu_forward, cpu_step
from kernels.selective_scan.cpu_run import BLOCK, CHUNK, Inputs, Sizes, blocks_of
from kernels.threads import run_in_ranges

__all__ = ["CHUNK", "backward", "forward", "step"]

_EXACT = (torch.float32, torch.complex64)
_FEWEST_UPDATES = 1 << 16  # of one state of one channel, for which a thread is worth waking


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state, and the checkpoints, in memory (batch, chunks, N, parts, channels)."""
    layout = _Layout.of(x, A, B, C)
    sizes = layout.sizes(x, dt_softplus, reverse)
    tensors = layout.inputs(x, dt, A, B, C, D, z, dt_bias, initial_state)
    checkpoints = torch.empty(sizes.rows, -(-sizes.length // CHUNK), *layout.states_shape)
    y = torch.empty(sizes.rows, sizes.length, sizes.channels)
    sequences = sizes.rows if cu_seqlens is None else len(cu_seqlens) - 1
    final_state = torch.zeros(sequences, *layout.states_shape) if tensors[-1] is None else tensors[-1].clone()
    inputs = Inputs(*map(address, (*tensors, checkpoints)))
    arguments = (sizes, inputs, _segments(x, cu_seqlens, reverse), y.data_ptr(), final_state.data_ptr())
    _run(cpu_forward.forward, sizes, *arguments, layout.kind)
    return (
        layout.trim(y).to(x.dtype),
        layout.to_states(final_state),
        _relabel(layout.trim(checkpoints), A),
    )


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, dt, A, B, C, D, z, dt_bias and initial_state, None for an absent one."""
    layout = _Layout.of(x, A, B, C)
    sizes = layout.sizes(x, dt_softplus, reverse)
    tensors = layout.inputs(x, dt, A, B, C, D, z, dt_bias, initial_state)
    states = layout.pad(_unlabel(checkpoints, A))
    grad_outputs = (
        layout.pad(grad_y),
        None if grad_final_state is None else layout.from_states(grad_final_state),
    )
    activation = (sizes.rows, sizes.length, sizes.channels)
    varying = (
        blocks_of(sizes.channels // sizes.groups),
        *activation[:2],
        sizes.groups,
        *layout.states_shape[:2],
    )
    constant = (sizes.rows, *layout.states_shape)
    grad_x, grad_dt = torch.empty(activation), torch.empty(activation)
    grad_z = None if z is None else torch.empty(activation)
    grad_A = torch.zeros(constant)
    grad_B, grad_C = (
        torch.zeros(constant) if is_constant else torch.empty(varying)
        for is_constant in (sizes.constant_B, sizes.constant_C)
    )
    grad_D, grad_bias = (torch.zeros(sizes.rows, sizes.channels) for _ in range(2))
    grad_state = None
    if tensors[-1] is not None:
        grad_state = torch.zeros_like(tensors[-1]) if grad_outputs[1] is None else grad_outputs[1].clone()
    written = (grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_state)
    inputs = Inputs(*map(address, (*tensors, states)))
    gradients = cpu_backward.Gradients(*map(address, grad_outputs + written))
    segments = _segments(x, cu_seqlens, reverse)
    _run(cpu_backward.backward, sizes, sizes, inputs, segments, gradients, layout.kind)
    return (
        layout.trim(grad_x),
        layout.trim(grad_dt),
        layout.to_states(_sum_first_axis(grad_A)),
        layout.to_parameter(grad_B, B),
        layout.to_parameter(grad_C, C),
        None if D is None else layout.trim(_sum_first_axis(grad_D)),
        None if grad_z is None else layout.trim(grad_z),
        None if dt_bias is None else layout.trim(_sum_first_axis(grad_bias)),
        None if grad_state is None else layout.to_states(grad_state),
    )


def step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """Return y (batch, channels); `state` (batch, channels, N), contiguous, is updated in place."""
    batch, channels = x.shape
    kind = COMPLEX if A.is_complex() else REAL
    groups = _common_groups(x, A, B, C)
    B, C = _with_groups(B, groups, x, A), _with_groups(C, groups, x, A)
    extents = (batch, 1, channels, A.shape[1], kind.parts, groups)
    sizes = Sizes(*extents, False, dt_softplus, _is_constant(B, A), _is_constant(C, A))
    tensors = [
        tensor if tensor is None or tensor.dtype in _EXACT else tensor.float()
        for tensor in (x, dt, A, B, C, D, z, dt_bias, state, None)
    ]
    inputs = Inputs(*map(address, tensors))
    y = torch.empty(batch, channels)
    run_in_ranges(
        lambda first, last: cpu_step.step(first, last, sizes, inputs, y.data_ptr(), kind),
        batch,
        1 + _FEWEST_UPDATES // A.numel(),
    )
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _is_constant(parameter: Tensor, A: Tensor) -> bool:
    return parameter.dim() == 2 + A.is_complex()


def _common_groups(x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> int:
    """Return the least number of groups of channels within which B and C are one."""
    axis = x.dim() - 1
    return lcm(*(1 if _is_constant(parameter, A) else parameter.shape[axis] for parameter in (B, C)))


def _with_groups(parameter: Tensor, groups: int, x: Tensor, A: Tensor) -> Tensor:
    """Return B or C, contiguous, with so many groups if it varies."""
    axis = x.dim() - 1
    if _is_constant(parameter, A) or parameter.shape[axis] == groups:
        return parameter
    return parameter.repeat_interleave(groups // parameter.shape[axis], dim=axis)


@dataclass(frozen=True)
class _Layout:
    """Between the layout of the arguments and that of the loops."""

    kind: Kind
    states: int
    channels: int
    groups: int
    constant_b: bool
    constant_c: bool

    @classmethod
    def of(cls, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> "_Layout":
        kind = COMPLEX if A.is_complex() else REAL
        groups = _common_groups(x, A, B, C)
        return cls(kind, A.shape[1], x.shape[-1], groups, _is_constant(B, A), _is_constant(C, A))

    @property
    def padded_channels(self) -> int:
        width = self.channels // self.groups
        return self.groups * (width + -width % LANES)

    @property
    def states_shape(self) -> tuple[int, int, int]:
        return self.states, self.kind.parts, self.padded_channels

    def sizes(self, x: Tensor, dt_softplus: bool, reverse: bool) -> Sizes:
        rows, length, _ = x.shape
        extents = (rows, length, self.padded_channels, self.states, self.kind.parts, self.groups)
        return Sizes(*extents, reverse, dt_softplus, self.constant_b, self.constant_c)

    def inputs(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        initial_state: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Return what `Inputs` points to, but for the checkpoints."""
        return (
            self.pad(x),
            self.pad(dt),
            self.from_states(A),
            self.from_parameter(_with_groups(B, self.groups, x, A)),
            self.from_parameter(_with_groups(C, self.groups, x, A)),
            None if D is None else self.pad(D),
            None if z is None else self.pad(z),
            None if dt_bias is None else self.pad(dt_bias),
            None if initial_state is None else self.from_states(initial_state),
        )

    def pad(self, tensor: Tensor) -> Tensor:
        """Return (..., channels) in contiguous fp32, padded with zeros."""
        missing = (self.padded_channels - self.channels) // self.groups
        if missing == 0:
            return tensor.float().contiguous()
        grouped = tensor.float().unflatten(-1, (self.groups, self.channels // self.groups))
        return pad(grouped, (0, missing)).contiguous().flatten(-2)

    def trim(self, tensor: Tensor) -> Tensor:
        """Undo `pad`."""
        if self.padded_channels == self.channels:
            return tensor
        grouped = tensor.unflatten(-1, (self.groups, self.padded_channels // self.groups))
        return grouped[..., : self.channels // self.groups].flatten(-2).contiguous()

    def from_states(self, states: Tensor) -> Tensor:
        """Return (..., channels, N) as (..., N, parts, channels)."""
        parts = torch.view_as_real(states) if states.is_complex() else states.unsqueeze(-1)
        return self.pad(parts.movedim(-3, -1))

    def to_states(self, planes: Tensor) -> Tensor:
        """Undo `from_states`."""
        parts = self.trim(planes).movedim(-1, -3).contiguous()
        return torch.view_as_complex(parts) if self.kind is COMPLEX else parts.squeeze(-1)

    def from_parameter(self, parameter: Tensor) -> Tensor:
        """Return a constant B or C as (N, parts, channels), a varying one as (..., groups, N, parts)."""
        parts = parameter if self.kind is COMPLEX else parameter.unsqueeze(-1)
        return self.pad(parts.movedim(0, -1)) if parts.dim() == 3 else parts.float()

    def to_parameter(self, gradient: Tensor, parameter: Tensor) -> Tensor:
        """Sum a gradient of `cpu_backward.Gradients` over rows or blocks, and undo `from_parameter`."""
        gradient = _sum_first_axis(gradient)
        if gradient.dim() == 3:
            gradient = self.trim(gradient).movedim(-1, 0)
        elif gradient.shape[2] != parameter.shape[2]:
            gradient = gradient.unflatten(2, (parameter.shape[2], -1)).sum(3)
        return (gradient if self.kind is COMPLEX else gradient.squeeze(-1)).contiguous()


def _sum_first_axis(tensor: Tensor) -> Tensor:
    """Sum in this thread: to wake torch's threads costs more than they would save."""
    return torch.from_numpy(tensor.numpy().sum(0))


def _relabel(planes: Tensor, A: Tensor) -> Tensor:
    """Return checkpoints under the shape and dtype that the operator declares, the memory being as it is."""
    parts = planes.view(*planes.shape[:2], *A.shape, -1)
    return torch.view_as_complex(parts) if A.is_complex() else parts.squeeze(-1)


def _unlabel(checkpoints: Tensor, A: Tensor) -> Tensor:
    parts = torch.view_as_real(checkpoints) if A.is_complex() else checkpoints.unsqueeze(-1)
    channels, states = A.shape
    return parts.view(*parts.shape[:2], states, -1, channels)


def _segments(x: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> np.ndarray:
    """Return (start, end, sequence) of each sequence with any positions, in the order of the scan."""
    length = x.shape[1]
    if cu_seqlens is None:
        return np.array([[0, length, 0]])
    bounds = cu_seqlens.long().numpy()
    segments = np.stack([bounds[:-1], bounds[1:], np.arange(len(bounds) - 1)], axis=1)
    if reverse:
        segments = np.stack([length - segments[:, 1], length - segments[:, 0], segments[:, 2]], axis=1)[::-1]
    return np.ascontiguousarray(segments[segments[:, 0] < segments[:, 1]])


def _run(kernel, sizes: Sizes, *arguments) -> None:  # type: ignore[no-untyped-def]
    tasks = sizes.rows * sizes.groups * blocks_of(sizes.channels // sizes.groups)
    updates = sizes.length * sizes.states * min(BLOCK, sizes.channels // sizes.groups)
    run_in_ranges(lambda first, last: kernel(first, last, *arguments), tasks, 1 + _FEWEST_UPDATES // updates)
