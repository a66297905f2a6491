"""What the Triton kernels of the scan are compiled for."""

import math
from dataclasses import dataclass
from typing import overload

import torch
import triton
from torch import Tensor

CHUNK = 64  # positions from one checkpoint to the next


@dataclass(frozen=True)
class Form:
    """A kernel's variant and the shapes that it knows. A number is one real, or two where A is complex."""

    channels: int
    groups: int
    states: int
    is_complex: bool
    constant_b: bool  # B is (channels, states), not (batch, length, groups, states)
    constant_c: bool
    softplus: bool
    reverse: bool
    width: int  # channels of a tile
    chunk: int
    block: int  # positions whose states the backward pass holds at once

    @property
    def parts(self) -> int:
        """Return the reals of a number."""
        return 2 if self.is_complex else 1

    @property
    def size(self) -> int:
        """Return the states of a tile, those that fill it up included."""
        return triton.next_power_of_2(self.states)

    @property
    def group_channels(self) -> int:
        """Return the channels of a group."""
        return self.channels // self.groups

    @property
    def group_tiles(self) -> int:
        """Return the tiles of a group."""
        return -(-self.group_channels // self.width)

    @property
    def tiles(self) -> int:
        """Return the tiles of all channels."""
        return self.group_tiles * self.groups


def make_form(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    groups: int,
    dt_softplus: bool,
    reverse: bool,
    *,
    reals: int,
    block: int = 1,
) -> Form:
    """Return the form of a kernel whose tiles hold about so many reals."""
    channels, states = A.shape
    parts = 2 if A.is_complex() else 1
    width = max(reals // (triton.next_power_of_2(states) * parts), 4 // parts)
    return Form(
        channels=channels,
        groups=groups,
        states=states,
        is_complex=A.is_complex(),
        constant_b=is_constant(B, A),
        constant_c=is_constant(C, A),
        softplus=dt_softplus,
        reverse=reverse,
        width=min(width, triton.next_power_of_2(channels // groups), 64),
        chunk=CHUNK,
        block=block,
    )


def is_constant(weights: Tensor, A: Tensor) -> bool:
    """Return whether B or C is (channels, states) rather than (..., groups, states)."""
    return weights.dim() == 2 + A.is_complex()


def common_groups(A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return B and C with as many groups each, repeated where they differ, and the number of groups."""
    axis = -2 - A.is_complex()
    counts = [1 if is_constant(weights, A) else weights.shape[axis] for weights in (B, C)]
    groups = math.lcm(*counts)
    B, C = (
        weights
        if is_constant(weights, A) or count == groups
        else weights.repeat_interleave(groups // count, axis)
        for weights, count in zip((B, C), counts, strict=True)
    )
    return B, C, groups


@overload
def as_real(tensor: Tensor) -> Tensor: ...
@overload
def as_real(tensor: None) -> None: ...
def as_real(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor, if any; a complex one as its parts along a last axis of 2."""
    return torch.view_as_real(tensor) if tensor is not None and tensor.is_complex() else tensor
