"""One optimizer step on one global batch: the same numbers for any split over processes and micro-batches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.training.config import TrainingConfig
from core.training.distributed import World
from core.training.loss import count_targets, cross_entropy_sum


@dataclass(frozen=True)
class StepResult:
    """What one step gave, the same in every process."""

    loss: float  # nats a target, over the global batch
    gradient_norm: float  # before clipping
    stop_requested: bool  # in any process

    @property
    def skipped(self) -> bool:
        """Whether the loss or the gradient was not finite, so that the parameters were left alone."""
        return not (math.isfinite(self.loss) and math.isfinite(self.gradient_norm))


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    micro_batch: int,
    config: TrainingConfig,
    world: World,
    stop_requested: bool = False,
) -> StepResult:
    """Update the model by the gradient of the loss over the global batch.

    inputs, targets: this process's rows (rows, ...), of which `micro_batch` run at once. The loss is the sum
    over the real targets of all processes divided by their number (0 if there is none).
    """
    count = world.sum(count_targets(targets)).clamp(min=1)
    loss = torch.zeros((), device=world.device)
    for some_inputs, some_targets in zip(inputs.split(micro_batch), targets.split(micro_batch), strict=True):
        with autocast(config, world.device):
            logits = model(some_inputs)
        part = cross_entropy_sum(logits, some_targets) / count
        part.backward()
        loss += part.detach()

    told = world.sum_gradients(model, torch.stack([loss, torch.full_like(loss, stop_requested)]))
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    result = StepResult(told[0].item(), norm.item(), bool(told[1].item()))
    if not result.skipped:
        optimizer.step()
    optimizer.zero_grad()
    return result


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The context of forward passes: bf16 where `config.precision` says so; parameters stay fp32."""
    is_bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16)
