"""Decoding on a GPU by CUDA graphs: a whole period of the model's clocks is one launch.

A step of a small model is some hundred kernels of a few microseconds, which Python cannot launch as fast as
they run. What a step runs depends on the phase of the clocks alone (core/layers/pooling.py), so
the steps of one
period are captured once, with sampling inside, and replayed. The position is read from the device.
"""

import math

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.decoding.engines import Model, Situation, StaticEngine, at_position
from core.decoding.sampling import SamplingConfig, sample

SINGLE_CLOCK = 16  # steps a graph of a model that has one clock


class GraphEngine(StaticEngine):
    """Replays graphs of model.step and sample over static tensors; any model on a CUDA device."""

    def __init__(self, model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.model, self.config, self.allowed = model, config, allowed
        pools = getattr(model.config, "pools", None)
        self.period = SINGLE_CLOCK if pools is None else math.prod(pools)
        device = allowed.device
        self._place = torch.zeros((), dtype=torch.int64, device=device)
        self._tokens = torch.zeros(count, self.period, dtype=torch.int64, device=device)
        self._log_probabilities = torch.zeros(count, self.period, device=device)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def begin(self, situation: Situation, keys: Tensor) -> None:
        super().begin(situation, keys)
        self._place.fill_(situation.position)

    @torch.no_grad()
    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        drawn = []
        while steps:
            phase = self.position % self.period
            length = self.period if phase == 0 and steps >= self.period else 1
            self._graph(phase, length).replay()
            drawn.append((self._tokens[:, :length].clone(), self._log_probabilities[:, :length].clone()))
            self.position += length
            steps -= length
        tokens, log_probabilities = zip(*drawn, strict=True)
        return torch.cat(tokens, dim=1), torch.cat(log_probabilities, dim=1)

    def _graph(self, phase: int, length: int) -> torch.cuda.CUDAGraph:
        """The graph of `length` steps from a phase on; capturing leaves the tensors as they were."""
        if (phase, length) not in self._graphs:
            before = tree_map_only(Tensor, torch.clone, (self.situation(), self._place))
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._run(phase, length)  # what is compiled at the first call cannot be captured
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._run(phase, length)
            self._graphs[phase, length] = graph
            self._logits.copy_(before[0].logits)
            self._place.copy_(before[1])
            self._restore(before[0].state)
        return self._graphs[phase, length]

    def _run(self, phase: int, length: int) -> None:
        state = at_position(self._state, phase)
        for step in range(length):
            token, log_probability = sample(self._logits, self._keys, self._place, self.config, self.allowed)
            logits, state = self.model.step(token, state)
            self._logits.copy_(logits)
            self._tokens[:, step] = token
            self._log_probabilities[:, step] = log_probability
            self._place += 1
        self._restore(state)  # of models whose step does not overwrite the state that it is given
