"""Weights in the order in which the decoding kernel's tensor cores read them."""

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE = 16  # rows, and columns, of the pieces that one instruction multiplies


def tiles(size: int) -> int:
    """How many tiles hold so many rows or columns."""
    return -(-size // TILE)


def bf16_parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest bf16 numbers, and those nearest to what they leave over: together 16 bits of mantissa."""
    high = values.to(torch.bfloat16)
    return high, (values - high.float()).to(torch.bfloat16)


def fragments(matrix: Tensor) -> Tensor:
    """(..., rows, columns) bf16 -> (..., row tiles, column tiles, 32 lanes, 8 numbers), filled with zeros.

    A lane holds four pairs of neighbouring columns, as `mma.m16n8k16` wants its first operand.
    """
    rows, columns = matrix.shape[-2:]
    filled = pad(matrix, (0, -columns % TILE, 0, -rows % TILE))
    pieces = filled.unflatten(-1, (-1, 2, 4, 2)).unflatten(-5, (-1, 2, 8))
    # (..., row tile, row half, row, column tile, column half, pair, number)
    before = list(range(matrix.dim() - 2))
    order = [len(before) + axis for axis in (0, 3, 2, 5, 4, 1, 6)]
    return pieces.permute(*before, *order).flatten(-3).flatten(-3, -2).contiguous()


def operands(values: Tensor) -> Tensor:
    """(..., width) float32 -> (..., width) int32: for each 16 numbers, a lane's four words side by side.

    The words are two columns' high parts, their low parts, and both of the columns 8 further on.
    """
    parts = torch.stack(bf16_parts(values), dim=-1)
    pieces = parts.unflatten(-2, (-1, 2, 4, 2))  # (..., tile, half, pair, number, part)
    before = list(range(values.dim() - 1))
    order = [len(before) + axis for axis in (0, 2, 1, 4, 3)]
    return pieces.permute(*before, *order).contiguous().view(torch.int32).flatten(-5)
