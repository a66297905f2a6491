"""The definition of decoding: model.step and sample, one operator at a time, for any model on any device."""

import torch
from torch import Tensor

from core.decoding.sampling import SamplingConfig, sample
from core.decoding.state import DecodeState, Model


class EagerEngine:
    """Call model.step and sample for each token; the faster engines are tested against it."""

    def __init__(self, model: Model, config: SamplingConfig, allowed: Tensor) -> None:
        self.model, self.config, self.allowed = model, config, allowed

    def load(self, state: DecodeState, keys: Tensor) -> None:
        """Continue from `state`, with the random streams keys (count,); the tensors are not copied."""
        self._logits, self._model_state, self.position = state
        self._keys = keys

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""
        samples = []
        for _ in range(steps):
            token, log_probability = sample(
                self._logits, self._keys, self.position, self.config, self.allowed
            )
            logits, self._model_state = self.model.step(token, self._model_state)
            self._logits, self.position = logits.float(), self.position + 1
            samples.append((token, log_probability))
        tokens, log_probabilities = zip(*samples, strict=True)
        return torch.stack(tokens, dim=1), torch.stack(log_probabilities, dim=1)

    def state(self) -> DecodeState:
        """Return the present state, in the engine's own tensors."""
        return DecodeState(self._logits, self._model_state, self.position)
