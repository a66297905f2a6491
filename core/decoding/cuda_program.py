"""A model's step packed for the decoding kernel (kernels/decoding/cuda.py)."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from core.decoding.program import BlockWeights, StagePlace
from kernels.decoding.arguments import BLOCK, COMPRESS, EXPAND, HEAD, Operation, Product
from kernels.decoding.packing import TILE, bf16_parts, fragments, tiles

LOG2_E = 1 / math.log(2)
_STATE = ("conv", "ssm", "frames_in", "frames_out")


@dataclass
class CudaProgram:
    """Operations of one step, faster stages first; a core.decoding.program.Program.

    ranks: thread blocks of a cluster.
    parts: partial sums of a product whose columns the ranks share, the same for any number of ranks.
    planes: bf16 numbers per weight: 2 keep 16 bits of mantissa, 1 keeps 8.
    template: the tensors of a state of the model, to which the operations point until `bind`.
    weights: the packed tensors whose addresses the operations hold.
    """

    ranks: int
    parts: int
    planes: int
    template: list[Tensor]
    operations: list[Operation] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    residual_rows: int = 0
    skip_rows: int = 0

    def bind(self, state: list[Tensor]) -> Tensor:
        """Return the operations, (bytes,) uint8, with the addresses of another state of the same model."""
        pairs = zip(self.template, state, strict=True)
        addresses = {old.data_ptr(): new.data_ptr() for old, new in pairs}
        packed = (Operation * len(self.operations))(*self.operations)
        for operation in packed:
            for name in _STATE:
                if getattr(operation, name) is not None:
                    setattr(operation, name, addresses[getattr(operation, name)])
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8)

    def largest(self) -> dict[str, int]:
        """Return the largest sizes of any operation, by macro name."""
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
        """Reserve the residual stream of a stage, and return its first row."""
        start = self.residual_rows
        self.residual_rows += width // self.ranks
        return start

    def add_skips(self, width: int, count: int) -> list[int]:
        """Reserve `count` skip connections, and return the first row of each."""
        rows = width // self.ranks
        start = self.skip_rows
        self.skip_rows += rows * count
        return [start + rows * index for index in range(count)]

    def add_block(
        self,
        weights: BlockWeights,
        conv: Tensor,
        ssm: Tensor,
        place: StagePlace,
        *,
        save: int = -1,
        add: int = -1,
        frames: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add a block; arguments as in core.decoding.program.Program."""
        inner, width = weights.out_proj.shape[1], weights.out_proj.shape[0]
        own = inner // self.ranks
        both = (weights.in_proj * weights.norm).view(2, self.ranks, own, width).transpose(0, 1)
        operation = self._add(BLOCK, width, **place._asdict(), save=save, add=add)
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
                more = -dt_rank % 4  # B and C are aligned to 16 bytes
                x_proj = torch.cat([x_proj[:dt_rank], x_proj.new_zeros(more, inner), x_proj[dt_rank:]])
                operation.dt_weight = self._store(pad(weights.dt_weight, (0, more)).T)
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
                setattr(operation, name, self._store(tensor))
        operation.conv, operation.ssm = conv.data_ptr(), ssm.data_ptr()
        if frames is not None:
            operation.pool = frames[0].shape[1]
            operation.frames_in, operation.frames_out = (frame.data_ptr() for frame in frames)

    def add_head(self, norm: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Add the last norm and the head: weight (vocabulary, width)."""
        operation = self._add(HEAD, weight.shape[1], period=1, depth=0)
        rows = TILE * tiles(-(-tiles(len(weight)) // self.ranks) * TILE) * self.ranks
        filled = pad(weight * norm, (0, 0, 0, rows - len(weight)))
        operation.first = self._product(filled.view(self.ranks, -1, weight.shape[1]))
        if bias is not None:
            operation.bias = self._store(bias)

    def add_compress(self, weight: Tensor, bias: Tensor, frames: Tensor, place: StagePlace) -> None:
        """Add the projection of a frame to one position; arguments as in core.decoding.program.Program."""
        pool, width = frames.shape[1:]
        operation = self._add(COMPRESS, width, **place._asdict())
        by_part = weight.view(-1, pool, self.parts, width // self.parts).permute(2, 0, 1, 3).flatten(2)
        by_rank = by_part.unflatten(0, (self.ranks, -1)).transpose(1, 2).flatten(2)
        operation.first = self._shared_product(by_rank)
        operation.bias = self._store(bias)
        operation.frames_in, operation.pool = frames.data_ptr(), pool

    def add_expand(self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int) -> None:
        """Add the projection of one position to a frame; arguments as in core.decoding.program.Program."""
        pool, width = frames.shape[1:]
        operation = self._add(EXPAND, width, period=period, depth=depth)
        by_rank = weight.view(pool, self.ranks, width // self.ranks, -1).transpose(0, 1).flatten(1, 2)
        operation.first = self._product(by_rank)
        operation.bias = self._store(bias)
        operation.frames_out, operation.pool = frames.data_ptr(), pool

    def _add(self, kind: int, width: int, **fields: int) -> Operation:
        operation = Operation(kind=kind, width=width, **fields)
        self.operations.append(operation)
        return operation

    def _columns(self, matrix: Tensor) -> Tensor:
        """Return the columns of each rank: (rows, columns) -> (ranks, rows, columns / ranks)."""
        return matrix.unflatten(1, (self.ranks, -1)).transpose(0, 1)

    def _shared_product(self, matrices: Tensor) -> Product:
        """Pack matrices (ranks, rows, columns) whose columns the ranks share: a step of each part in turn."""
        parts = matrices.unflatten(2, (self.parts // self.ranks, -1, TILE))
        return self._product(parts.transpose(2, 3).flatten(2))

    def _product(self, matrices: Tensor) -> Product:
        """Pack matrices (ranks, rows, columns), one per rank."""
        parts: list[Any] = [fragments(part) for part in bf16_parts(matrices.float())]
        high, low = (self._store(part) if plane < self.planes else None for plane, part in enumerate(parts))
        return Product(high, low, *parts[0].shape[1:3])

    def _store(self, tensor: Tensor) -> int:
        """Store a tensor, and return its address."""
        self.weights.append(tensor.contiguous())
        return self.weights[-1].data_ptr()
