"""The steps of a run, one after the other: data, learning rate, update, and what each of them took."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from core.training.batches import Batch, Batches, prefetch
from core.training.config import TrainingConfig
from core.training.cuda_graph import CapturedStep, CapturedSteps, DeviceBatches
from core.training.distributed import World
from core.training.length_warmup import StagedBatches
from core.training.optimizer import learning_rate, set_learning_rate
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


def run_steps(
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
    alone_on_gpu = _is_alone_on_gpu(world)
    parts = _device_parts(batches, steps.stop) if alone_on_gpu and not config.ema else []
    if parts:
        for made, part in parts:
            own = range(max(part.start, steps.start), part.stop)
            if own:
                take_many = _takers(model, optimizer, made, rows(part.start), config, world)
                yield from _many_at_once(take_many, part.start, own, steps.stop, config, world, stop)
        return
    captured = CapturedStep(model, optimizer, config, world) if alone_on_gpu else None

    def take(batch: Batch) -> StepResult:
        if captured is not None:
            return captured(batch, stop.requested)
        return training_step(model, optimizer, batch, config, world, stop.requested)

    with closing(prefetch(batches, steps, rows, world.device)) as data:
        for step, (batch, waited) in zip(steps, data, strict=True):
            began = time.perf_counter() - waited
            rate = learning_rate((step + 1) / steps.stop, config)
            set_learning_rate(optimizer, rate)
            _seed_draws(config, step, world)
            result = take(batch)
            tokens, seconds = batch.inputs.numel() * world.size, time.perf_counter() - began
            yield Taken(result, rate, batch.inputs.shape[1], tokens, seconds, waited)


def _seed_draws(config: TrainingConfig, step: int, world: World) -> None:
    """Let whatever a model draws depend on the step alone: there is no state to carry over a resume."""
    torch.manual_seed(hash((config.seed, step, world.rank)))


def _is_alone_on_gpu(world: World) -> bool:
    return world.size == 1 and world.device.type == "cuda"


def _device_parts(batches: Batches, steps: int) -> list[tuple[DeviceBatches, range]]:
    """Batches that the device makes, with the steps of the run that they are of; none if it makes not all."""
    if isinstance(batches, StagedBatches):
        stages = [(batches.by_length[s.length], range(s.first_step, s.end)) for s in batches.stages]
    else:
        stages = [(batches, range(steps))]
    made = [(made, part) for made, part in stages if isinstance(made, DeviceBatches)]
    return made if len(made) == len(stages) else []


def _takers(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DeviceBatches,
    rows: range,
    config: TrainingConfig,
    world: World,
) -> dict[int, CapturedSteps]:
    """What takes one step, and what takes AT_ONCE or a divisor of it, so that nothing is due in between."""
    count = math.gcd(AT_ONCE, config.validate_every, config.checkpoint_every)
    return {size: CapturedSteps(model, optimizer, batches, rows, config, world, size) for size in {1, count}}


def _many_at_once(
    takers: dict[int, CapturedSteps],
    offset: int,
    steps: range,
    last: int,
    config: TrainingConfig,
    world: World,
    stop: StopRequest,
) -> Generator[Taken, None, None]:
    """Take the steps of a run of `last` in all, whose batches are counted from `offset` on."""
    count = max(takers)
    step = steps.start
    while step < steps.stop:
        size = count if step % count == 0 and step + count <= steps.stop else 1
        began = time.perf_counter()
        rates = [learning_rate((step + 1 + index) / last, config) for index in range(size)]
        _seed_draws(config, step, world)  # steps of one graph go on with the draws of its first
        results = takers[size](step - offset, rates)
        seconds = (time.perf_counter() - began) / size
        results[-1] = replace(results[-1], stop_requested=stop.requested)
        for result, rate in zip(results, rates, strict=True):
            yield Taken(result, rate, takers[size].length, takers[size].tokens, seconds, waited=0.0)
        step += size
