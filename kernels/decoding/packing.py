"""Pack weights in the order in which the tensor cores of the decoding kernel read them."""

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE = 16  # rows and columns of the matrix that one instruction multiplies


def tiles(size: int) -> int:
    """Return the number of tiles that cover `size` rows or columns."""
    return -(-size // TILE)


def bf16_parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values in bf16, and the rounding errors in bf16; the sum has 16 bits of mantissa."""
    high = values.to(torch.bfloat16)
    return high, (values - high.float()).to(torch.bfloat16)


def fragments(matrix: Tensor) -> Tensor:
    """Pack (..., rows, columns) bf16 to (..., row tiles, column tiles, 32 lanes, 8 numbers), zero-padded.

    A lane holds four pairs of neighbouring columns, the layout of the first operand of `mma.m16n8k16`.
    """
    rows, columns = matrix.shape[-2:]
    padded = pad(matrix, (0, -columns % TILE, 0, -rows % TILE))
    parts = padded.unflatten(-1, (-1, 2, 4, 2)).unflatten(-5, (-1, 2, 8))
    # (..., row tile, row half, row, column tile, column half, pair, number)
    batch = list(range(matrix.dim() - 2))
    order = [len(batch) + axis for axis in (0, 3, 2, 5, 4, 1, 6)]
    return parts.permute(*batch, *order).flatten(-3).flatten(-3, -2).contiguous()


def operands(values: Tensor) -> Tensor:
    """Pack (..., width) float32 to (..., width) int32: four adjacent words per lane and 16 numbers.

    The words hold the high parts of two columns, their low parts, and the same for the columns 8 further.
    """
    parts = torch.stack(bf16_parts(values), dim=-1)
    pairs = parts.unflatten(-2, (-1, 2, 4, 2))  # (..., tile, half, pair, number, part)
    batch = list(range(values.dim() - 1))
    order = [len(batch) + axis for axis in (0, 2, 1, 4, 3)]
    return pairs.permute(*batch, *order).contiguous().view(torch.int32).flatten(-5)
