"""Decoder state, and the base of the engines that keep it in static tensors.

An engine is the only owner of the logits, the model's state and the position. The clocks of a model's state
follow from the position (`with_position`), so they are stored nowhere else.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from core.layers.pooling import PooledState
from core.models.multiscale import MultiscaleModel
from core.models.samplernn import SampleRnn
from core.models.sequence import SequenceModel
from core.models.wavenet import WaveNet

Model = SequenceModel | MultiscaleModel | WaveNet | SampleRnn


class DecodeState(NamedTuple):
    """Decoder state between two tokens.

    logits: (batch, padded vocabulary) float32, of the next token.
    model_state: state of the model after the tokens so far.
    position: number of tokens so far.
    """

    logits: Tensor
    model_state: Any
    position: int

    def row(self, index: int) -> "DecodeState":
        """Return a copy of the state of one sample, (1, ...)."""
        return tree_map_only(Tensor, lambda part: part[index : index + 1].clone(), self)

    @staticmethod
    def stack(rows: Sequence["DecodeState"], index: Tensor) -> "DecodeState":
        """Return a batch in which sample k is a copy of rows[index[k]].

        Each row is the state of one sample, and all rows are at one position.
        """
        leaves, structure = zip(*(tree_flatten(row) for row in rows), strict=True)
        joined = [
            torch.cat(parts)[index.to(parts[0].device)] if isinstance(parts[0], Tensor) else parts[0]
            for parts in zip(*leaves, strict=True)
        ]
        return tree_unflatten(joined, structure[0])


class Engine(Protocol):
    """Decoding steps of one model for a fixed number of samples."""

    position: int

    def load(self, state: DecodeState, keys: Tensor) -> None:
        """Continue from `state`; keys (count,) int64 are the random streams of the samples.

        The engine may keep the given tensors or copy them.
        """

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""

    def state(self) -> DecodeState:
        """Return the present state; its tensors may be the engine's own."""


class StaticEngine:
    """Base of the engines whose tensors are allocated once and never move.

    A captured graph or a packed program holds the addresses of these tensors.
    """

    def __init__(self, model: Model, count: int, allowed: Tensor) -> None:
        self.position = 0
        self._model_state = model.initial_state(count)
        self._keys = torch.zeros(count, dtype=torch.int64, device=allowed.device)
        self._logits = torch.zeros(count, len(allowed), device=allowed.device)

    def load(self, state: DecodeState, keys: Tensor) -> None:
        """Copy `state` and keys (count,) into the engine's tensors."""
        self.position = state.position
        self._keys.copy_(keys)
        self._logits.copy_(state.logits)
        self._copy_model_state(state.model_state)

    def state(self) -> DecodeState:
        """Return the present state, in the engine's own tensors."""
        return DecodeState(self._logits, with_position(self._model_state, self.position), self.position)

    def _copy_model_state(self, source: Any) -> None:
        """Copy a state of the same model, which may share tensors with the engine's own."""
        for own, given in zip(state_tensors(self._model_state), state_tensors(source), strict=True):
            if own is not given:
                own.copy_(given)


def state_tensors(model_state: Any) -> list[Tensor]:
    """Return the tensors of a model's state in a fixed order."""
    return [leaf for leaf in tree_leaves(model_state) if isinstance(leaf, Tensor)]


def clock_period(model: Model) -> int:
    """Return the number of steps in one turn of all clocks of a model: 1 if it has no slower clock."""
    return math.prod(getattr(model.config, "pools", [1]))


def with_position(model_state: Any, position: int) -> Any:
    """Return the same tensors with the phase of each clock after `position` tokens."""
    if isinstance(model_state, PooledState):
        turns, phase = divmod(position, model_state.inputs.shape[1])
        return model_state._replace(phase=phase, inner=with_position(model_state.inner, turns))
    if not isinstance(model_state, tuple):
        return model_state
    parts = [with_position(part, position) for part in model_state]
    return type(model_state)(*parts) if hasattr(model_state, "_fields") else tuple(parts)
