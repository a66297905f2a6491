"""Predictions of a classifier: the input of every metric."""

from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """Features and log-probabilities of clips, on the CPU.

    features: (clips, features) float32. log_probabilities: (clips, classes) float64; float32 would round the
    probability of a confident prediction to exactly 1.
    """

    features: Tensor
    log_probabilities: Tensor

    @property
    def classes(self) -> Tensor:
        """Most probable class of each clip, (clips,) int64."""
        return self.log_probabilities.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """Probability of the most probable class of each clip, (clips,) float64."""
        return self.log_probabilities.amax(dim=1).exp()

    def accuracy(self, labels: Tensor) -> float:
        """Return the fraction of clips whose predicted class is their label; labels (clips,)."""
        return (self.classes == labels).double().mean().item()
