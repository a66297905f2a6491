"""Decoding on a CPU: one compiled call runs a step of the whole model (kernels/decoding/cpu.py).

Each row of the batch is computed by itself, so a sample is bit-identical in any batch.
"""

import torch
from torch import Tensor

from core.decoding.cpu_program import CpuProgram
from core.decoding.program import MambaModel, add_model
from core.decoding.sampling import SamplingConfig, sample
from core.decoding.state import StaticEngine, clock_period
from kernels.decoding import cpu
from kernels.layout import in_vectors
from kernels.simd import COMPLEX, LANES, REAL
from kernels.threads import run_in_ranges


class CpuEngine(StaticEngine):
    """Run the compiled step of a model and core.decoding.sampling.sample; torch's threads share the rows."""

    def __init__(self, model: MambaModel, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.config, self.allowed, self.count = config, allowed, count
        self._program = CpuProgram()
        add_model(self._program, model, self._model_state)
        self._table, self._widest = self._program.table(), self._program.widest()
        self._embedding = in_vectors(model.embedding.weight.detach(), LANES)
        self._epsilon = model.norm_f.eps
        self._period = clock_period(model)

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""
        tokens = torch.empty(self.count, steps, dtype=torch.int64)
        log_probabilities = torch.empty(self.count, steps)
        for step in range(steps):
            token, log_probability = sample(
                self._logits, self._keys, self.position, self.config, self.allowed
            )
            tokens[:, step], log_probabilities[:, step] = token, log_probability
            self._read(token)
        return tokens, log_probabilities

    def _read(self, tokens: Tensor) -> None:
        """Run one step of the model on tokens (count,)."""
        arguments = self._table, self.position % self._period, tokens.numpy(), self._embedding.data_ptr()
        sizes = self._logits.data_ptr(), self._epsilon, self._widest
        run_in_ranges(
            lambda first, last: cpu.step(first, last, *arguments, *sizes, REAL, COMPLEX), self.count
        )
        self.position += 1
