"""The definition of decoding: model.step and sample, one operator at a time, for any model on any device."""

from typing import Any

import torch
from torch import Tensor

from core.decoding.sampling import SamplingConfig, sample
from core.decoding.state import DecodeState, Model
from core.layers.plain import is_plain


class EagerEngine:
    """Call model.step and sample for each token; the faster engines are tested against it.

    Hooks on a part that has its own step, such as a block, act only in forward, which then runs instead.
    """

    def __init__(self, model: Model, config: SamplingConfig, allowed: Tensor) -> None:
        self.model, self.config, self.allowed = model, config, allowed

    def load(self, state: DecodeState, keys: Tensor) -> None:
        """Continue from `state`, with the random streams keys (count,); the tensors are not copied."""
        self._logits, self._model_state, self.position = state
        self._keys = keys

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""
        samples = []
        has_steps = all(is_plain(part) for part in self.model.modules() if hasattr(part, "step"))
        step = self._step if has_steps else self._forward
        for _ in range(steps):
            token, log_probability = sample(
                self._logits, self._keys, self.position, self.config, self.allowed
            )
            logits, self._model_state = step(token)
            self._logits, self.position = logits.float(), self.position + 1
            samples.append((token, log_probability))
        tokens, log_probabilities = zip(*samples, strict=True)
        return torch.stack(tokens, dim=1), torch.stack(log_probabilities, dim=1)

    def _step(self, token: Tensor) -> tuple[Tensor, Any]:
        return self.model.step(token, self._model_state)

    @torch.no_grad()
    def _forward(self, token: Tensor) -> tuple[Tensor, Any]:
        logits, model_state = self.model(token[:, None], self._model_state)
        return logits[:, 0], model_state

    def state(self) -> DecodeState:
        """Return the present state, in the engine's own tensors."""
        return DecodeState(self._logits, self._model_state, self.position)
