"""What decoding engines have in common: where decoding stands, and the plain engine that runs model.step."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from core.decoding.sampling import SamplingConfig, sample
from core.layers.pooling import PooledState
from core.models.multiscale import MultiscaleModel
from core.models.samplernn import SampleRnn
from core.models.sequence import SequenceModel
from core.models.wavenet import WaveNet

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


class StaticEngine:
    """What the faster engines share: tensors of their own, which are filled at the start and never move."""

    def __init__(self, model: Model, count: int, allowed: Tensor) -> None:
        self.position = 0
        self._state = model.initial_state(count)
        self._keys = torch.zeros(count, dtype=torch.int64, device=allowed.device)
        self._logits = torch.zeros(count, len(allowed), device=allowed.device)

    def begin(self, situation: Situation, keys: Tensor) -> None:
        self.position = situation.position
        self._keys.copy_(keys)
        self._logits.copy_(situation.logits)
        self._restore(situation.state)

    def situation(self) -> Situation:
        return Situation(self._logits, at_position(self._state, self.position), self.position)

    def _restore(self, state: Any) -> None:
        """Fill the engine's state with another of the same model, of which it may hold tensors itself."""
        for mine, theirs in zip(tensors(self._state), tensors(state), strict=True):
            if mine is not theirs:
                mine.copy_(theirs)


def tensors(state: Any) -> list[Tensor]:
    """The tensors of a model's state, in a fixed order."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def clock_period(model: Model) -> int:
    """Steps after which the model's clocks stand as before: 1 for a model of one clock."""
    return math.prod(getattr(model.config, "pools", [1]))


def fastest_engine(model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> Engine:
    """The engine for a model on its device.

    Of models of Mamba blocks: on an NVIDIA GPU of compute capability 9.0, one kernel that runs all steps, if
    it takes the model's sizes; on a CPU, a compiled step. Else CUDA graphs of model.step, or that itself.
    With the kernel or the compiled step a sample is the same in any batch, bit by bit; with the others, whose
    matrix products are a library's, its logits are so only to their last bits.
    """
    if allowed.device.type == "cuda":
        from core.decoding.graph import GraphEngine
        from core.decoding.persistent import PersistentEngine, takes

        if takes(model, allowed.device):
            return PersistentEngine(model, count, config, allowed)
        return GraphEngine(model, count, config, allowed)
    from core.decoding.cpu import CpuEngine, compiles

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
