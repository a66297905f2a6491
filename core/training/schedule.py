"""The learning rate as a pure function of how much of the training is done."""

import math

from core.training.config import TrainingConfig


def learning_rate(progress: float, config: TrainingConfig) -> float:
    """The learning rate at a fraction `progress` in [0, 1] of the training.

    It rises linearly from 0 to its peak over the fraction `config.warmup`, then falls along half a cosine to
    `config.minimum_learning_rate` at 1.
    """
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    if config.warmup == 1.0:
        return config.learning_rate
    fallen = (progress - config.warmup) / (1.0 - config.warmup)
    height = 0.5 * (1.0 + math.cos(math.pi * fallen))
    return config.minimum_learning_rate + height * (config.learning_rate - config.minimum_learning_rate)
