"""The operations of a model's step for the CPU: the same calls as operations.py takes, another packing."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kernels.decoding import cpu
from kernels.decoding.operations import BlockWeights
from kernels.layout import address, in_vectors
from kernels.simd import LANES


@dataclass
class CpuProgram:
    """A step's operations in order, faster clocks first, and the tensors that they point to."""

    operations: list[dict[str, int]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    slots: int = 0

    def table(self) -> np.ndarray:
        """(operations, fields) int64, as `kernels.decoding.cpu.step` takes them."""
        rows = [[operation.get(name, 0) for name in cpu.FIELDS] for operation in self.operations]
        return np.array(rows, dtype=np.int64)

    def widest(self) -> int:
        """Numbers that any buffer of a step must hold."""
        sizes = [
            max(
                2 * _vectors(o.get("inner", 0)), o["width"] * o.get("pool", 1), 2 * o["width"], o["projected"]
            )
            for o in self.operations
        ]
        return _vectors(max(sizes))

    def add_stage(self, width: int) -> int:
        """Nothing: a stage's stream is found by its depth."""
        return 0

    def add_skips(self, width: int, count: int) -> list[int]:
        """Room for what so many blocks read: a slot each."""
        self.slots += count
        return list(range(self.slots - count, self.slots))

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
        """One block; arguments as in operations.py."""
        both = (weights.in_proj * weights.norm).chunk(2)
        A = torch.view_as_real(weights.A) if weights.A.is_complex() else weights.A
        dt_rank = 0 if weights.dt_weight is None else weights.dt_weight.shape[1]
        self._add(
            kind=cpu.BLOCK,
            period=period,
            depth=depth,
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
            first=self._keep(torch.cat([in_vectors(part.t(), LANES) for part in both], dim=1)),
            second=self._matrix(weights.x_proj),
            third=self._matrix(weights.out_proj),
            conv_weight=self._matrix(weights.conv_weight),
            conv_bias=self._row(weights.conv_bias),
            dt_weight=self._matrix(weights.dt_weight),
            dt_bias=self._row(weights.dt_bias),
            **{name: self._keep(tensor) for name, tensor in (("A", A), ("B", weights.B), ("C", weights.C))},
            D=self._keep(weights.D),
            conv=address(conv),
            ssm=address(ssm),
            pool=1 if frames is None else frames[0].shape[1],
            frames_in=0 if frames is None else address(frames[0]),
            frames_out=0 if frames is None else address(frames[1]),
        )

    def add_head(self, norm: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Logits of the next token: weight (vocabulary, width)."""
        self._add(
            kind=cpu.HEAD,
            period=1,
            width=weight.shape[1],
            projected=len(weight),
            first=self._matrix(weight * norm),
            bias=self._row(bias),
        )

    def add_compress(
        self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int, residual: int
    ) -> None:
        """weight (inner width, pool * width) makes of a frame one position of stage `depth`."""
        self._project(cpu.COMPRESS, weight, bias, frames, period, depth, frames_in=address(frames))

    def add_expand(self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int) -> None:
        """weight (pool * width, inner width) makes a frame of stage `depth` of one position of the next."""
        self._project(cpu.EXPAND, weight, bias, frames, period, depth, frames_out=address(frames))

    def _project(
        self, kind: int, weight: Tensor, bias: Tensor, frames: Tensor, period: int, depth: int, **place: int
    ) -> None:
        pool, width = frames.shape[1:]
        first, row = self._matrix(weight), self._row(bias)
        sizes = {"width": width, "pool": pool, "projected": 0}
        self._add(kind=kind, period=period, depth=depth, first=first, bias=row, **sizes, **place)

    def _add(self, **fields: int) -> None:
        self.operations.append({"save": -1, "add": -1} | fields)

    def _matrix(self, matrix: Tensor | None) -> int:
        """(rows, columns) as (columns, rows in whole vectors)."""
        return 0 if matrix is None else self._keep(in_vectors(matrix.t(), LANES))

    def _row(self, row: Tensor | None) -> int:
        return 0 if row is None else self._keep(in_vectors(row, LANES))

    def _keep(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        self.kept.append(tensor.float().contiguous())
        return address(self.kept[-1])


def _vectors(count: int) -> int:
    return -(-count // LANES) * LANES
