"""One optimizer step on one global batch: the same numbers for any world size and micro-batch size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from core.training.batches import Batch, micro_batches
from core.training.config import TrainingConfig
from core.training.distributed import World
from core.training.loss import count_targets, cross_entropy_sum


@dataclass(frozen=True)
class StepResult:
    """Result of one step, the same on every rank."""

    loss: float  # nats per target, over the global batch
    gradient_norm: float  # before clipping
    stop_requested: bool  # on any rank

    @property
    def is_skipped(self) -> bool:
        """Return whether the loss or gradient was not finite, so that the parameters did not change."""
        return not (math.isfinite(self.loss) and math.isfinite(self.gradient_norm))


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    world: World,
    stop_requested: bool = False,
) -> StepResult:
    """Update the model by the gradient of the loss over the global batch.

    batch: rows or packed sequences of this rank. The loss is the sum over the targets of all ranks divided by
    their number (0 without targets). `config.backpropagation_length` leaves the loss unchanged and cuts the
    gradient between segments; packed sequences are never cut.
    """
    loss, norm, stop = clipped_gradients(model, batch, config, world, stop_requested).tolist()
    result = StepResult(loss, norm, bool(stop))
    if not result.is_skipped:
        optimizer.step()
    optimizer.zero_grad()
    return result


def clipped_gradients(
    model: nn.Module,
    batch: Batch,
    config: TrainingConfig,
    world: World,
    stop_requested: bool = False,
) -> Tensor:
    """Compute the clipped gradient of every parameter; arguments as in training_step.

    Returns (3,) on the device: the loss, the norm of the gradient before clipping, and the number of ranks
    with a stop request. A CUDA graph can capture it: nothing waits for the device.
    """
    count = world.sum(count_targets(batch.targets)).clamp(min=1)
    loss = torch.zeros((), device=world.device)
    length = batch.inputs.shape[1]
    is_packed = batch.cu_seqlens is not None
    segment = length if is_packed else min(length, config.backpropagation_length or length)
    for micro_batch in micro_batches(batch, segment, config.micro_tokens):
        logits = _segment_logits(model, micro_batch, segment, autocast(config, world.device))
        for segment_logits, targets in zip(logits, micro_batch.targets.split(segment, dim=1), strict=True):
            segment_loss = cross_entropy_sum(segment_logits, targets) / count
            segment_loss.backward()
            loss += segment_loss.detach()

    stats = world.sum_gradients(model, torch.stack([loss, torch.full_like(loss, stop_requested)]))
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    return torch.stack([stats[0], norm, stats[1]])


def _segment_logits(model: Any, batch: Batch, segment: int, precision: torch.autocast) -> Iterator[Tensor]:
    """Yield logits (rows, segment, vocabulary) of each segment of the inputs; the last may be shorter.

    Each segment starts at the detached final state of the one before, so no gradient flows between them.
    """
    inputs = batch.inputs
    if inputs.shape[1] <= segment:
        packing = {} if batch.cu_seqlens is None else {"cu_seqlens": batch.cu_seqlens}
        with precision:
            logits = model(inputs, **packing)
        yield logits
        return
    state = model.initial_state(len(inputs))
    for segment_inputs in inputs.split(segment, dim=1):
        with precision:
            logits, state = model(segment_inputs, state)
        state = tree_map_only(Tensor, Tensor.detach, state)
        yield logits


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Return the context of forward passes: bf16 or fp32 by `config.precision`; parameters stay fp32."""
    is_bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16)
