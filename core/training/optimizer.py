"""AdamW, its parameter groups and its learning-rate schedule (Gu and Dao 2023, section E.2)."""

import math

import torch
from torch import nn

from core.training.config import TrainingConfig

_STATE_SPACE_PARAMETERS = {"A_log", "A_imag", "B", "C", "D", "dt_bias"}


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters in two groups: with and without weight decay.

    On a GPU it is fused and its learning rate is a tensor, so that a CUDA graph can capture its step.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for name, p in trainable if has_weight_decay(name, p)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in trainable if not has_weight_decay(name, p)], "weight_decay": 0.0},
    ]
    betas, epsilon = config.betas, config.epsilon
    if not all(parameter.is_cuda for _, parameter in trainable):
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=epsilon)
    rate = torch.tensor(config.learning_rate, device=trainable[0][1].device)
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=True, capturable=True)


def learning_rate(progress: float, config: TrainingConfig) -> float:
    """Return the learning rate at a fraction `progress` in [0, 1] of the training.

    It rises linearly from 0 to its peak over the fraction `config.warmup`, then follows half a cosine down to
    `config.minimum_learning_rate`.
    """
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    if config.warmup == 1.0:
        return config.learning_rate
    decay_progress = (progress - config.warmup) / (1.0 - config.warmup)
    height = 0.5 * (1.0 + math.cos(math.pi * decay_progress))
    return config.minimum_learning_rate + height * (config.learning_rate - config.minimum_learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter.

    The name and the number of axes decide, because copies and loaded tensors lose attributes. Matrices and
    embeddings decay. Biases and norms (one axis) and the constants of a state space, which set its time
    scales and shapes, do not.
    """
    path = name.split(".")
    owner = path[-2] if "parametrizations" in path[:-2] else path[-1]  # ...parametrizations.A_log.original
    return parameter.ndim >= 2 and owner not in _STATE_SPACE_PARAMETERS
