"""Between the layout of the scan's arguments and that of the compiled loops on the CPU.

Inside, all is fp32, channels come last, each group is padded to whole vectors of channels, and states are
(..., N, parts, channels), parts 1 (real) or 2 (complex).
"""

from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.selective_scan.cpu_run import Sizes
from kernels.simd import COMPLEX, LANES, REAL, Kind


def kind_of(A: Tensor) -> Kind:
    return COMPLEX if A.is_complex() else REAL


def is_constant(parameter: Tensor, A: Tensor) -> bool:
    return parameter.dim() == 2 + A.is_complex()


def common_groups(x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> int:
    """Return the least number of groups of channels within which B and C are one."""
    axis = x.dim() - 1
    return lcm(*(1 if is_constant(parameter, A) else parameter.shape[axis] for parameter in (B, C)))


def with_groups(parameter: Tensor, groups: int, x: Tensor, A: Tensor) -> Tensor:
    """Return B or C, contiguous, with so many groups if it varies."""
    axis = x.dim() - 1
    if is_constant(parameter, A) or parameter.shape[axis] == groups:
        return parameter
    return parameter.repeat_interleave(groups // parameter.shape[axis], dim=axis)


@dataclass(frozen=True)
class Layout:
    """Between the layout of the arguments and that of the loops."""

    kind: Kind
    states: int
    channels: int
    groups: int
    constant_b: bool
    constant_c: bool

    @classmethod
    def of(cls, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> "Layout":
        groups = common_groups(x, A, B, C)
        return cls(kind_of(A), A.shape[1], x.shape[-1], groups, is_constant(B, A), is_constant(C, A))

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
            self.from_parameter(with_groups(B, self.groups, x, A)),
            self.from_parameter(with_groups(C, self.groups, x, A)),
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
        gradient = sum_first_axis(gradient)
        if gradient.dim() == 3:
            gradient = self.trim(gradient).movedim(-1, 0)
        elif gradient.shape[2] != parameter.shape[2]:
            gradient = gradient.unflatten(2, (parameter.shape[2], -1)).sum(3)
        return (gradient if self.kind is COMPLEX else gradient.squeeze(-1)).contiguous()


def sum_first_axis(tensor: Tensor) -> Tensor:
    """Sum in this thread: to wake torch's threads costs more than they would save."""
    return torch.from_numpy(tensor.numpy().sum(0))


def relabel(planes: Tensor, A: Tensor) -> Tensor:
    """Return checkpoints under the shape and dtype that the operator declares, the memory being as it is."""
    parts = planes.view(*planes.shape[:2], *A.shape, -1)
    return torch.view_as_complex(parts) if A.is_complex() else parts.squeeze(-1)


def unlabel(checkpoints: Tensor, A: Tensor) -> Tensor:
    parts = torch.view_as_real(checkpoints) if A.is_complex() else checkpoints.unsqueeze(-1)
    channels, states = A.shape
    return parts.view(*parts.shape[:2], states, -1, channels)
