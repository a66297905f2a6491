"""A model's step packed for the compiled CPU kernel (kernels/decoding/cpu.py)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.decoding.program import BlockWeights, StagePlace
from kernels.decoding import cpu
from kernels.layout import address, in_vectors
from kernels.simd import LANES


@dataclass
class CpuProgram:
    """Operations of one step, faster stages first; a core.decoding.program.Program.

    weights: the packed tensors whose addresses the operations hold.
    """

    operations: list[dict[str, int]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    skips: int = 0

    def table(self) -> np.ndarray:
        """Return the operations as (operations, fields) int64 for `kernels.decoding.cpu.step`."""
        rows = [[operation.get(name, 0) for name in cpu.FIELDS] for operation in self.operations]
        return np.array(rows, dtype=np.int64)

    def widest(self) -> int:
        """Return the size in numbers that fits any buffer of a step."""
        sizes = [
            max(
                2 * _whole_vectors(o.get("inner", 0)),
                o["width"] * o.get("pool", 1),
                2 * o["width"],
                o["projected"],
            )
            for o in self.operations
        ]
        return _whole_vectors(max(sizes))

    def add_stage(self, width: int) -> int:
        """Return 0: the kernel finds the residual stream of a stage by its depth."""
        return 0

    def add_skips(self, width: int, count: int) -> list[int]:
        """Reserve `count` skip connections, and return their slots."""
        self.skips += count
        return list(range(self.skips - count, self.skips))

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
        both = (weights.in_proj * weights.norm).chunk(2)
        A = torch.view_as_real(weights.A) if weights.A.is_complex() else weights.A
        dt_rank = 0 if weights.dt_weight is None else weights.dt_weight.shape[1]
        self._add(
            kind=cpu.BLOCK,
            period=place.period,
            depth=place.depth,
            width=weights.out_proj.shape[0],
            inner=weights.out_proj.shape[1],
            states=weights.A.shape[1],
            taps=weights.conv_weight.shape[1],
            dt_rank=dt_rank,
            projected=0 if weights.x_proj is None else len(weights.x_proj),
            is_complex=int(weights.A.is_complex()),
            has_dt=int(dt_rank > 0),
            has_B=int(weights.B is None),
            has_C=int(weights.C is None),
            save=save,
            add=add,
            first=self._store(torch.cat([in_vectors(part.t(), LANES) for part in both], dim=1)),
            second=self._matrix(weights.x_proj),
            third=self._matrix(weights.out_proj),
            conv_weight=self._matrix(weights.conv_weight),
            conv_bias=self._row(weights.conv_bias),
            dt_weight=self._matrix(weights.dt_weight),
            dt_bias=self._row(weights.dt_bias),
            **{name: self._store(tensor) for name, tensor in (("A", A), ("B", weights.B), ("C", weights.C))},
            D=self._store(weights.D),
            conv=address(conv),
            ssm=address(ssm),
            pool=1 if frames is None else frames[0].shape[1],
            frames_in=0 if frames is None else address(frames[0]),
            frames_out=0 if frames is None else address(frames[1]),
        )

    def add_head(self, norm: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Add the last norm and the head: weight (vocabulary, width)."""
        self._add(
            kind=cpu.HEAD,
            period=1,
            width=weight.shape[1],
            projected=len(weight),
            first=self._matrix(weight * norm),
            bias=self._row(bias),
        )

    def add_compress(self, weight: Tensor, bias: Tensor, frames: Tensor, place: StagePlace) -> None:
        """Add the projection of a frame to one position; arguments as in core.decoding.program.Program."""
        clock = {"period": place.period, "depth": place.depth}
        self._add_projection(cpu.COMPRESS, weight, bias, frames, frames_in=address(frames), **clock)

    def add_expand(self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int) -> None:
        """Add the projection of one position to a frame; arguments as in core.decoding.program.Program."""
        clock = {"period": period, "depth": depth}
        self._add_projection(cpu.EXPAND, weight, bias, frames, frames_out=address(frames), **clock)

    def _add_projection(self, kind: int, weight: Tensor, bias: Tensor, frames: Tensor, **fields: int) -> None:
        pool, width = frames.shape[1:]
        first, row = self._matrix(weight), self._row(bias)
        self._add(kind=kind, first=first, bias=row, width=width, pool=pool, projected=0, **fields)

    def _add(self, **fields: int) -> None:
        self.operations.append({"save": -1, "add": -1} | fields)

    def _matrix(self, matrix: Tensor | None) -> int:
        """Store (rows, columns) as (columns, rows in whole vectors), and return its address."""
        return 0 if matrix is None else self._store(in_vectors(matrix.t(), LANES))

    def _row(self, row: Tensor | None) -> int:
        return 0 if row is None else self._store(in_vectors(row, LANES))

    def _store(self, tensor: Tensor | None) -> int:
        """Store a tensor as contiguous float32, and return its address: 0 for None."""
        if tensor is None:
            return 0
        self.weights.append(tensor.float().contiguous())
        return address(self.weights[-1])


def _whole_vectors(count: int) -> int:
    return -(-count // LANES) * LANES
