"""The operations of a model's step, made of its parameters and of the state that the kernel updates."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.decoding.arguments import BLOCK, COMPRESS, EXPAND, HEAD, Operation, Product
from kernels.decoding.packing import TILE, bf16_parts, fragments, tiles

LOG2_E = 1 / math.log(2)
_STATE = ("conv", "ssm", "frames_in", "frames_out")


@dataclass(frozen=True)
class BlockWeights:
    """The parameters of a Mamba block, float32, with the names and shapes of core/layers/mamba.py.

    x_proj: (dt_rank + B + C, d_inner), without the rows of what is constant; None if all three are.
    dt_weight: (d_inner, dt_rank), None where dt is constant. B, C: (d_inner, N[, 2]), None where they vary.
    A: (d_inner, N), float32 or complex64.
    """

    norm: Tensor
    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor | None
    dt_weight: Tensor | None
    dt_bias: Tensor
    A: Tensor
    B: Tensor | None
    C: Tensor | None
    D: Tensor
    out_proj: Tensor


@dataclass
class Program:
    """A step's operations in order, faster clocks first, and the tensors that they point to.

    ranks: blocks of a cluster. parts: of a sum that they share out, the same for any number of ranks.
    planes: 2 keeps 16 bits of each weight's mantissa, 1 only bf16's 8.
    template: the tensors of a state of the model; the operations point to them until they are bound.
    """

    ranks: int
    parts: int
    planes: int
    template: list[Tensor]
    operations: list[Operation] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    residual_rows: int = 0
    skip_rows: int = 0

    def bound(self, state: list[Tensor]) -> Tensor:
        """The operations, (bytes,) uint8, on the tensors of another state of the same model."""
        pairs = zip(self.template, state, strict=True)
        place = {mine.data_ptr(): theirs.data_ptr() for mine, theirs in pairs}
        packed = (Operation * len(self.operations))(*self.operations)
        for operation in packed:
            for name in _STATE:
                if getattr(operation, name) is not None:
                    setattr(operation, name, place[getattr(operation, name)])
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8)

    def largest(self) -> dict[str, int]:
        """The largest sizes that an operation has, by the names of the macros."""
        blocks = [operation for operation in self.operations if operation.kind == BLOCK]
        summed = [operation.third.steps for operation in blocks]
        summed += [operation.first.steps for operation in self.operations if operation.kind == COMPRESS]
        return {
            "COMPLEX": max(operation.is_complex for operation in blocks),
            "WIDEST": max(operation.width for operation in blocks),
            "OWN_CHANNELS": max(operation.own_channels for operation in blocks),
            "OPERAND": TILE * max(summed),
            "PROJECTED": max(4, *(operation.projected for operation in blocks)),
            "DT_RANK": max(4, *(operation.dt_rank for operation in blocks)),
        }

    def add_stage(self, width: int) -> int:
        """Room for the residual stream of one more stage: where its rows begin."""
        start = self.residual_rows
        self.residual_rows += width // self.ranks
        return start

    def add_skips(self, width: int, count: int) -> list[int]:
        """Room for what so many blocks read: where the rows of each begin."""
        rows = width // self.ranks
        start = self.skip_rows
        self.skip_rows += rows * count
        return [start + rows * index for index in range(count)]

    def add_block(
        self,
        weights: BlockWeights,
        conv: Tensor,
        ssm: Tensor,
        *,
        period: int,
        depth: int,
        residual: int,
        save: int = -1,
        add: int = -1,
        frames: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """One block. save: where what it reads goes, add: what is added behind it (-1: neither).

        frames: the frames that are read and written, (batch, pool, width), behind the last block before them.
        """
        inner, width = weights.out_proj.shape[1], weights.out_proj.shape[0]
        own = inner // self.ranks
        both = (weights.in_proj * weights.norm).view(2, self.ranks, own, width).transpose(0, 1)
        operation = self._operation(BLOCK, period, depth, width, residual=residual, save=save, add=add)
        operation.first = self._product(both.reshape(self.ranks, 2 * own, width))
        operation.third = self._shared_product(self._columns(weights.out_proj))
        operation.own_channels = own
        operation.is_complex = int(weights.A.is_complex())
        operation.has_dt, operation.has_B, operation.has_C = (
            int(value) for value in (weights.dt_weight is not None, weights.B is None, weights.C is None)
        )
        if weights.x_proj is not None:
            x_proj, dt_rank = weights.x_proj, 0
            if weights.dt_weight is not None:
                dt_rank = weights.dt_weight.shape[1]
                more = -dt_rank % 4  # so that B and C begin at 16 bytes
                x_proj = torch.cat([x_proj[:dt_rank], x_proj.new_zeros(more, inner), x_proj[dt_rank:]])
                operation.dt_weight = self._keep(pad(weights.dt_weight, (0, more)).T)
                dt_rank += more
            operation.second = self._shared_product(self._columns(x_proj))
            operation.dt_rank, operation.projected = dt_rank, len(x_proj)
        A = weights.A
        if A.is_complex():
            A = torch.view_as_real(torch.complex(A.real * LOG2_E, A.imag)).flatten(1)
        else:
            A = A * LOG2_E
        for name, tensor in (
            *(("conv_weight", weights.conv_weight.T), ("conv_bias", weights.conv_bias)),
            *(("dt_bias", weights.dt_bias), ("A", A), ("B", weights.B), ("C", weights.C), ("D", weights.D)),
        ):
            if tensor is not None:
                setattr(operation, name, self._keep(tensor))
        operation.conv, operation.ssm = conv.data_ptr(), ssm.data_ptr()
        if frames is not None:
            operation.pool = frames[0].shape[1]
            operation.frames_in, operation.frames_out = (frame.data_ptr() for frame in frames)

    def add_head(self, norm: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Logits of the next token: weight (vocabulary, width)."""
        operation = self._operation(HEAD, 1, 0, weight.shape[1])
        rows = TILE * tiles(-(-tiles(len(weight)) // self.ranks) * TILE) * self.ranks
        filled = pad(weight * norm, (0, 0, 0, rows - len(weight)))
        operation.first = self._product(filled.view(self.ranks, -1, weight.shape[1]))
        if bias is not None:
            operation.bias = self._keep(bias)

    def add_compress(
        self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int, residual: int
    ) -> None:
        """weight (inner width, pool * width) makes of a frame one position of stage `depth`."""
        pool, width = frames.shape[1:]
        operation = self._operation(COMPRESS, period, depth, width, residual=residual)
        by_part = weight.view(-1, pool, self.parts, width // self.parts).permute(2, 0, 1, 3).flatten(2)
        by_rank = by_part.unflatten(0, (self.ranks, -1)).transpose(1, 2).flatten(2)
        operation.first = self._shared_product(by_rank)
        operation.bias = self._keep(bias)
        operation.frames_in, operation.pool = frames.data_ptr(), pool

    def add_expand(self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int) -> None:
        """weight (pool * width, inner width) makes a frame of stage `depth` of one position of the next."""
        pool, width = frames.shape[1:]
        operation = self._operation(EXPAND, period, depth, width)
        by_rank = weight.view(pool, self.ranks, width // self.ranks, -1).transpose(0, 1).flatten(1, 2)
        operation.first = self._product(by_rank)
        operation.bias = self._keep(bias)
        operation.frames_out, operation.pool = frames.data_ptr(), pool

    def _operation(self, kind: int, period: int, depth: int, width: int, **rows: int) -> Operation:
        operation = Operation(kind=kind, period=period, depth=depth, width=width, **rows)
        self.operations.append(operation)
        return operation

    def _columns(self, matrix: Tensor) -> Tensor:
        """Each rank's share of the columns: (rows, columns) -> (ranks, rows, columns / ranks)."""
        return matrix.unflatten(1, (self.ranks, -1)).transpose(0, 1)

    def _shared_product(self, matrices: Tensor) -> Product:
        """matrices (ranks, rows, columns) whose columns the ranks share out: a step of each part in turn."""
        parts = matrices.unflatten(2, (self.parts // self.ranks, -1, TILE))
        return self._product(parts.transpose(2, 3).flatten(2))

    def _product(self, matrices: Tensor) -> Product:
        """matrices (ranks, rows, columns), one for each rank."""
        parts: list[Any] = [fragments(part) for part in bf16_parts(matrices.float())]
        high, low = (self._keep(part) if plane < self.planes else None for plane, part in enumerate(parts))
        return Product(high, low, *parts[0].shape[1:3])

    def _keep(self, tensor: Tensor) -> int:
        self.kept.append(tensor.contiguous())
        return self.kept[-1].data_ptr()
