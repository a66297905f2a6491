"""Sizes of the scan on the CPU, and conversion between the arguments' layout and that of the compiled loops.

In the compiled loops every tensor is fp32, channels are the last axis, each group of channels is padded to
whole vectors, and states are (..., N, parts, channels), with 1 part (real) or 2 parts (complex).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.selective_scan.arguments import ScanArguments
from kernels.simd import COMPLEX, LANES, REAL, Kind

# Tuning, by timing on x86-64 with 2 cores (`python -m kernels.benchmarks.scan_cpu`).
CHUNK = 32  # positions between checkpoints; with BLOCK, the scratch of a task fits in the level 2 cache
BLOCK = 64  # channels of a task
FEWEST_UPDATES = 1 << 16  # updates of one state of one channel that pay for waking a thread


class Sizes(NamedTuple):
    """Extents and flags of a scan. Each group is a whole number of vectors of channels."""

    rows: int
    length: int
    channels: int
    states: int
    parts: int
    groups: int
    reverse: bool
    dt_softplus: bool
    constant_B: bool  # noqa: N815
    constant_C: bool  # noqa: N815


class Inputs(NamedTuple):
    """Addresses of contiguous fp32, 0 if absent. A and constant B and C are (N, parts, channels)."""

    x: int
    dt: int
    A: int
    B: int
    C: int
    D: int
    z: int
    dt_bias: int
    initial_state: int
    checkpoints: int


class Gradients(NamedTuple):
    """Addresses of the gradients that the backward reads (grad_*) and writes, 0 for an absent one.

    Gradients of varying B and C are (blocks of a group, batch, length, groups, N, parts). Those of A and of
    constant B and C are (batch, N, parts, channels), those of D and dt_bias (batch, channels).
    """

    grad_y: int
    grad_final_state: int
    x: int
    dt: int
    A: int
    B: int
    C: int
    D: int
    z: int
    dt_bias: int
    initial_state: int


def kind_of(A: Tensor) -> Kind:
    """Return the kind of the states, real or complex."""
    return COMPLEX if A.is_complex() else REAL


@dataclass(frozen=True)
class Layout:
    """Conversion of tensors to the layout of the compiled loops and back."""

    kind: Kind
    channels: int
    groups: int

    @property
    def group_channels(self) -> int:
        """Return the channels of a group with its padding: a multiple of LANES."""
        width = self.channels // self.groups
        return width + -width % LANES

    @property
    def padded_channels(self) -> int:
        """Return the channels of all groups with their padding."""
        return self.groups * self.group_channels

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
        grouped = tensor.unflatten(-1, (self.groups, self.group_channels))
        return grouped[..., : self.channels // self.groups].flatten(-2).contiguous()

    def from_states(self, states: Tensor) -> Tensor:
        """Return (..., channels, N) as (..., N, parts, channels)."""
        parts = torch.view_as_real(states) if states.is_complex() else states.unsqueeze(-1)
        return self.pad(parts.movedim(-3, -1))

    def to_states(self, planes: Tensor) -> Tensor:
        """Undo `from_states`."""
        parts = self.trim(planes).movedim(-1, -3).contiguous()
        return torch.view_as_complex(parts) if self.kind is COMPLEX else parts.squeeze(-1)

    def from_weights(self, weights: Tensor) -> Tensor:
        """Return a constant B or C as (N, parts, channels), a varying one as (..., groups, N, parts)."""
        parts = weights if self.kind is COMPLEX else weights.unsqueeze(-1)
        return self.pad(parts.movedim(0, -1)) if parts.dim() == 3 else parts.float()

    def to_weights(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """Sum a gradient of B or C over rows or blocks (see `Gradients`) and undo `from_weights`."""
        gradient = sum_first_axis(gradient)
        if gradient.dim() == 3:
            gradient = self.trim(gradient).movedim(-1, 0)
        elif gradient.shape[2] != weights.shape[2]:
            gradient = gradient.unflatten(2, (weights.shape[2], -1)).sum(3)
        return (gradient if self.kind is COMPLEX else gradient.squeeze(-1)).contiguous()

    def to_checkpoints(self, planes: Tensor, A: Tensor) -> Tensor:
        """Return (batch, chunks, N, parts, channels) under the shape that the operator declares.

        The shape is (batch, chunks, channels, N) in the dtype of A; the memory keeps its order.
        """
        parts = self.trim(planes).view(*planes.shape[:2], *A.shape, -1)
        return torch.view_as_complex(parts) if self.kind is COMPLEX else parts.squeeze(-1)

    def from_checkpoints(self, checkpoints: Tensor) -> Tensor:
        """Undo `to_checkpoints`."""
        parts = torch.view_as_real(checkpoints) if self.kind is COMPLEX else checkpoints.unsqueeze(-1)
        batch, chunks, channels, states, _ = parts.shape
        return self.pad(parts.view(batch, chunks, states, -1, channels))


def make_layout(arguments: ScanArguments) -> Layout:
    """Return the layout of a scan's tensors."""
    return Layout(kind_of(arguments.A), len(arguments.A), arguments.groups)


def make_sizes(arguments: ScanArguments, layout: Layout) -> Sizes:
    """Return the sizes of a scan with padded channels."""
    rows, length, _ = arguments.x.shape
    return Sizes(
        rows=rows,
        length=length,
        channels=layout.padded_channels,
        states=arguments.A.shape[1],
        parts=arguments.parts,
        groups=layout.groups,
        reverse=arguments.reverse,
        dt_softplus=arguments.dt_softplus,
        constant_B=arguments.has_constant_b,
        constant_C=arguments.has_constant_c,
    )


def lay_out(arguments: ScanArguments, layout: Layout) -> dict[str, Tensor | None]:
    """Return the tensors of `Inputs`, without the checkpoints, in the layout of the loops."""
    convert = {"A": layout.from_states, "B": layout.from_weights, "C": layout.from_weights}
    convert["initial_state"] = layout.from_states
    named = {name: getattr(arguments, name) for name in Inputs._fields if name != "checkpoints"}
    return {
        name: None if tensor is None else convert.get(name, layout.pad)(tensor)
        for name, tensor in named.items()
    }


def sum_first_axis(tensor: Tensor) -> Tensor:
    """Sum in this thread: waking torch's threads would take longer than the sum."""
    return torch.from_numpy(tensor.numpy().sum(0))
