"""Decoding on a GPU with CUDA graphs: one launch runs a whole period of the model's clocks.

A step of a small model is about a hundred kernels of a few microseconds, and Python launches them more slowly
than they run. The kernels of a step depend only on the phase of the clocks (core/layers/pooling.py). The
steps of one period are therefore captured once, sampling included, and replayed. Sampling reads the position
from the device.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.decoding.sampling import SamplingConfig, sample
from core.decoding.state import DecodeState, Model, StaticEngine, clock_period, with_position

SINGLE_CLOCK_STEPS = 16  # steps of a graph if the model has one clock


class GraphEngine(StaticEngine):
    """Replay graphs of model.step and sample over static tensors; any model on a CUDA device."""

    def __init__(self, model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.model, self.config, self.allowed = model, config, allowed
        has_clocks = hasattr(model.config, "pools")
        self.period = clock_period(model) if has_clocks else SINGLE_CLOCK_STEPS
        device = allowed.device
        self._device_position = torch.zeros((), dtype=torch.int64, device=device)
        self._tokens = torch.zeros(count, self.period, dtype=torch.int64, device=device)
        self._log_probabilities = torch.zeros(count, self.period, device=device)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def load(self, state: DecodeState, keys: Tensor) -> None:
        """Copy `state` and keys (count,) into the engine's tensors."""
        super().load(state, keys)
        self._device_position.fill_(state.position)

    @torch.no_grad()
    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""
        samples = []
        while steps:
            phase = self.position % self.period
            length = self.period if phase == 0 and steps >= self.period else 1
            self._graph(phase, length).replay()
            samples.append((self._tokens[:, :length].clone(), self._log_probabilities[:, :length].clone()))
            self.position += length
            steps -= length
        tokens, log_probabilities = zip(*samples, strict=True)
        return torch.cat(tokens, dim=1), torch.cat(log_probabilities, dim=1)

    def _graph(self, phase: int, length: int) -> torch.cuda.CUDAGraph:
        """Return the graph of `length` steps from a phase on; capturing leaves all tensors unchanged."""
        if (phase, length) not in self._graphs:
            before, position = tree_map_only(Tensor, torch.clone, (self.state(), self._device_position))
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._run(phase, length)  # kernels compile at their first call, which cannot be captured
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._run(phase, length)
            self._graphs[phase, length] = graph
            self._logits.copy_(before.logits)
            self._device_position.copy_(position)
            self._copy_model_state(before.model_state)
        return self._graphs[phase, length]

    def _run(self, phase: int, length: int) -> None:
        state = with_position(self._model_state, phase)
        for step in range(length):
            token, log_probability = sample(
                self._logits, self._keys, self._device_position, self.config, self.allowed
            )
            logits, state = self.model.step(token, state)
            self._logits.copy_(logits)
            self._tokens[:, step] = token
            self._log_probabilities[:, step] = log_probability
            self._device_position += 1
        self._copy_model_state(state)  # the step of some models returns new tensors
