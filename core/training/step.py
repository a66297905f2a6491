"""One optimizer step on one global batch: the same numbers for any split over processes and micro-batches."""

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
    batch: Batch,
    config: TrainingConfig,
    world: World,
    stop_requested: bool = False,
) -> StepResult:
    """Update the model by the gradient of the loss over the global batch.

    batch: this process's rows, or its packed sequences. The loss is the sum over the real targets of all
    processes divided by their number (0 if there is none). With `config.backpropagation_length` it is still
    that of whole sequences, while its gradient leaves out what passes from piece to piece; packed sequences
    are never cut.
    """
    loss, norm, stop = clipped_gradients(model, batch, config, world, stop_requested).tolist()
    result = StepResult(loss, norm, bool(stop))
    if not result.skipped:
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
    """Give every parameter its gradient, clipped; arguments as in training_step.

    Returns (3,) on the device: the loss, the norm of the gradient before clipping, and how many processes
    were asked to stop. Nothing here waits for the device, so that a CUDA graph can hold it.
    """
    count = world.sum(count_targets(batch.targets)).clamp(min=1)
    loss = torch.zeros((), device=world.device)
    length = batch.inputs.shape[1]
    piece = length if batch.cu_seqlens is not None else min(length, config.backpropagation_length or length)
    for part in micro_batches(batch, piece, config.micro_tokens):
        logits = _logits_in_pieces(model, part, piece, autocast(config, world.device))
        for some_logits, their_targets in zip(logits, part.targets.split(piece, dim=1), strict=True):
            share = cross_entropy_sum(some_logits, their_targets) / count
            share.backward()
            loss += share.detach()

    told = world.sum_gradients(model, torch.stack([loss, torch.full_like(loss, stop_requested)]))
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    return torch.stack([told[0], norm, told[1]])


def _logits_in_pieces(model: Any, batch: Batch, piece: int, precision: torch.autocast) -> Iterator[Tensor]:
    """Logits (rows, piece, vocabulary) of each `piece` of the inputs, the last one may be shorter.

    No gradient flows from a piece into the one before: each starts at the other's final state, detached.
    """
    inputs = batch.inputs
    if inputs.shape[1] <= piece:
        packing = {} if batch.cu_seqlens is None else {"cu_seqlens": batch.cu_seqlens}
        with precision:
            logits = model(inputs, **packing)
        yield logits
        return
    state = model.initial_state(len(inputs))
    for some_inputs in inputs.split(piece, dim=1):
        with precision:
            logits, state = model(some_inputs, state)
        state = tree_map_only(Tensor, Tensor.detach, state)
        yield logits


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The context of forward passes: bf16 where `config.precision` says so; parameters stay fp32."""
    is_bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16)
