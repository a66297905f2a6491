"""The steps of a run, one after the other: data, learning rate, update, and what each of them took."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from core.training.batches import Batch, Batches, prefetched
from core.training.captured import CapturedStep, CapturedSteps, DeviceBatches
from core.training.config import TrainingConfig
from core.training.distributed import World
from core.training.optimizer import set_learning_rate
from core.training.schedule import learning_rate
from core.training.step import StepResult, training_step
from core.training.stopping import StopRequest

AT_ONCE = 32
"""Most steps in a graph that makes its own data."""


@dataclass(frozen=True)
class Taken:
    """One step that was taken."""

    result: StepResult
    learning_rate: float
    length: int  # of its sequences
    tokens: int  # input positions, over all processes
    seconds: float
    waited: float  # of those, for data


def steps_taken(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: TrainingConfig,
    world: World,
    stop: StopRequest,
    steps: range,
    rows: Callable[[int], range],
) -> Generator[Taken, None, None]:
    """Take `steps` (from 0, up to the run's last); `rows` gives this process's rows of a step's batch.

    Where the parameters are looked at, after a multiple of `config.validate_every` or `checkpoint_every` and
    at the end, no later step has been taken yet.
    """
    alone_on_gpu = world.size == 1 and world.device.type == "cuda"
    if alone_on_gpu and isinstance(batches, DeviceBatches) and not config.ema:
        yield from _many_at_once(model, optimizer, batches, config, world, stop, steps)
        return
    captured = CapturedStep(model, optimizer, config, world) if alone_on_gpu else None

    def take(batch: Batch) -> StepResult:
        if captured is not None:
            return captured(batch, stop.requested)
        return training_step(model, optimizer, batch, config, world, stop.requested)

    with closing(prefetched(batches, steps, rows, world.device)) as data:
        for step, (batch, waited) in zip(steps, data, strict=True):
            began = time.perf_counter() - waited
            rate = learning_rate((step + 1) / steps.stop, config)
            set_learning_rate(optimizer, rate)
            # whatever a model draws depends on the step alone: there is no state to carry over a resume
            torch.manual_seed(hash((config.seed, step, world.rank)))
            result = take(batch)
            tokens, seconds = batch.inputs.numel() * world.size, time.perf_counter() - began
            yield Taken(result, rate, batch.inputs.shape[1], tokens, seconds, waited)


def _many_at_once(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DeviceBatches,
    config: TrainingConfig,
    world: World,
    stop: StopRequest,
    steps: range,
) -> Generator[Taken, None, None]:
    """Steps in graphs of AT_ONCE or a divisor of it; those left over at either end in a graph of one."""
    count = math.gcd(AT_ONCE, config.validate_every, config.checkpoint_every)
    takers = {size: CapturedSteps(model, optimizer, batches, config, world, size) for size in {1, count}}
    step = steps.start
    while step < steps.stop:
        size = count if step % count == 0 and step + count <= steps.stop else 1
        began = time.perf_counter()
        rates = [learning_rate((step + 1 + index) / steps.stop, config) for index in range(size)]
        results = takers[size](step, rates)
        seconds = (time.perf_counter() - began) / size
        results[-1] = replace(results[-1], stop_requested=stop.requested)
        for result, rate in zip(results, rates, strict=True):
            yield Taken(result, rate, takers[size].length, takers[size].tokens, seconds, waited=0.0)
        step += size
