"""AdamW with the paper's groups (Mamba, section E.2)."""

import torch
from torch import nn

from core.training.config import TrainingConfig

_DYNAMICS = {"A_log", "A_imag", "D"}


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that need a gradient, in two groups: decayed and not decayed.

    On a GPU it is fused, and a CUDA graph can hold its step: the learning rate is a tensor there.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    betas, epsilon = config.betas, config.epsilon
    if not all(parameter.is_cuda for _, parameter in trained):
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=epsilon)
    rate = torch.tensor(config.learning_rate, device=trained[0][1].device)  # where a CUDA graph finds it
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=True, capturable=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter.

    It does to matrices and embeddings; not to biases and norms (one axis), to the state space's A and D,
    which set time scales and the skip, nor to what its module marked `_no_weight_decay`.
    """
    is_dynamics = name.rpartition(".")[2] in _DYNAMICS
    return parameter.ndim >= 2 and not is_dynamics and not getattr(parameter, "_no_weight_decay", False)
