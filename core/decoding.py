"""What decoding engines have in common: where decoding stands, and the plain engine that runs model.step."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from core.baseline.samplernn import SampleRnn
from core.baseline.wavenet import WaveNet
from core.model import SequenceModel
from core.multiscale import MultiscaleModel
from core.pooling import PooledState
from core.sampling import SamplingConfig, sample

Model = SequenceModel | MultiscaleModel | WaveNet | SampleRnn


class Situation(NamedTuple):
    """Where decoding stands between two tokens.

    logits: (batch, padded vocabulary) float32, of the next token.
    state: the model's, after the tokens so far.
    position: how many tokens there are so far.
    """

    logits: Tensor
    state: Any
    position: int

    def row(self, index: int) -> "Situation":
        """That of one sample, (1, ...), in its own memory."""
        return tree_map_only(Tensor, lambda part: part[index : index + 1].clone(), self)

    @staticmethod
    def stacked(rows: Sequence["Situation"], place: Tensor) -> "Situation":
        """Sample k is a copy of rows[place[k]], which are of one sample each, at one position."""
        leaves, structure = zip(*(tree_flatten(row) for row in rows), strict=True)
        joined = [
            torch.cat(parts)[place.to(parts[0].device)] if isinstance(parts[0], Tensor) else parts[0]
            for parts in zip(*leaves, strict=True)
        ]
        return tree_unflatten(joined, structure[0])


class Engine(Protocol):
    """Runs the steps of one model for a fixed count of samples."""

    position: int

    def begin(self, situation: Situation, keys: Tensor) -> None:
        """Stand at `situation`, whose tensors become the engine's; keys (count,) are the random streams."""

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Draw tokens (count, steps) int64 and their log-probabilities (count, steps) float32."""

    def situation(self) -> Situation:
        """Where it stands; the tensors may be the engine's own."""


class EagerEngine:
    """The definition of decoding: model.step and sample, one operator after another, on any device."""

    def __init__(self, model: Model, config: SamplingConfig, allowed: Tensor) -> None:
        self.model, self.config, self.allowed = model, config, allowed

    def begin(self, situation: Situation, keys: Tensor) -> None:
        self.logits, self.state, self.position = situation
        self.keys = keys

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        drawn = []
        for _ in range(steps):
            token, log_probability = sample(self.logits, self.keys, self.position, self.config, self.allowed)
            logits, self.state = self.model.step(token, self.state)
            self.logits, self.position = logits.float(), self.position + 1
            drawn.append((token, log_probability))
        tokens, log_probabilities = zip(*drawn, strict=True)
        return torch.stack(tokens, dim=1), torch.stack(log_probabilities, dim=1)

    def situation(self) -> Situation:
        return Situation(self.logits, self.state, self.position)


def fastest_engine(model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> Engine:
    """The engine for a model on its device.

    Of models of Mamba blocks: on an NVIDIA GPU of compute capability 9.0, one kernel that runs all steps, if
    it takes the model's sizes; on a CPU, a compiled step. Else CUDA graphs of model.step, or that itself.
    With the kernel or the compiled step a sample is the same in any batch, bit by bit; with the others, whose
    matrix products are a library's, its logits are so only to their last bits.
    """
    if allowed.device.type == "cuda":
        from core.decoding_graph import GraphEngine
        from core.decoding_persistent import PersistentEngine, takes

        if takes(model, allowed.device):
            return PersistentEngine(model, count, config, allowed)
        return GraphEngine(model, count, config, allowed)
    from core.decoding_cpu import CpuEngine, compiles

    if compiles(model):
        return CpuEngine(model, count, config, allowed)
    return EagerEngine(model, config, allowed)


def at_position(state: Any, position: int) -> Any:
    """The same tensors of any model's state, with its clocks where they stand after `position` tokens."""
    if isinstance(state, PooledState):
        turns, phase = divmod(position, state.inputs.shape[1])
        return state._replace(phase=phase, inner=at_position(state.inner, turns))
    if not isinstance(state, tuple):
        return state
    parts = [at_position(part, position) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
