"""Decoding on a CPU: a step of the whole model is one compiled call (kernels/decoding/cpu.py).

A row of the batch is computed by itself, so that a sample does not depend on its batch, bit by bit.
"""

from typing import TypeGuard

import torch
from torch import Tensor

from core.decoding.engines import Model, StaticEngine, clock_period
from core.decoding.program import Covered, add_model, mixers_of
from core.decoding.sampling import SamplingConfig, sample
from kernels.decoding import cpu
from kernels.decoding.cpu_operations import CpuProgram
from kernels.layout import in_vectors
from kernels.simd import COMPLEX, LANES, REAL
from kernels.threads import run_in_ranges


class CpuEngine(StaticEngine):
    """Runs a model's compiled step, and draws with core/decoding/sampling.py; torch's threads
    share the rows."""

    def __init__(self, model: Covered, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.config, self.allowed, self.count = config, allowed, count
        self._program = CpuProgram()
        add_model(self._program, model, self._state)
        self._table, self._widest = self._program.table(), self._program.widest()
        self._embedding = in_vectors(model.embedding.weight.detach(), LANES)
        self._epsilon = model.norm_f.eps
        self._period = clock_period(model)

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        tokens = torch.empty(self.count, steps, dtype=torch.int64)
        log_probabilities = torch.empty(self.count, steps)
        for step in range(steps):
            drawn = sample(self._logits, self._keys, self.position, self.config, self.allowed)
            tokens[:, step], log_probabilities[:, step] = drawn
            self._read(drawn[0])
        return tokens, log_probabilities

    def _read(self, tokens: Tensor) -> None:
        arguments = self._table, self.position % self._period, tokens.numpy(), self._embedding.data_ptr()
        sizes = self._logits.data_ptr(), self._epsilon, self._widest
        run_in_ranges(
            lambda first, last: cpu.step(first, last, *arguments, *sizes, REAL, COMPLEX), self.count
        )
        self.position += 1


def compiles(model: Model) -> TypeGuard[Covered]:
    """Whether the compiled step takes the model: one of Mamba blocks, in float32."""
    return bool(mixers_of(model)) and model.embedding.weight.dtype == torch.float32
