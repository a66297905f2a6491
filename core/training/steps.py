"""The steps of a run in order: data, learning rate, update and statistics."""

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

STEPS_PER_GRAPH = 32
"""Largest number of steps in a graph that generates its own batches."""


@dataclass(frozen=True)
class StepStats:
    """Statistics of one step."""

    result: StepResult
    learning_rate: float
    length: int  # of the sequences
    tokens: int  # input positions over all ranks
    seconds: float
    wait_seconds: float  # part of `seconds` spent waiting for data


def run_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: TrainingConfig,
    world: World,
    stop: StopRequest,
    steps: range,
    rows: Callable[[int], range],
) -> Generator[StepStats, None, None]:
    """Run `steps` (from 0, up to the last of the run) and yield their statistics.

    rows: maps a step to the rows of this rank. After multiples of `config.validate_every` and
    `config.checkpoint_every`, and at the end, the parameters are those of the step just yielded.
    """
    is_single_gpu = _is_single_gpu(world)
    stages = _device_stages(batches, steps.stop) if is_single_gpu and not config.ema else []
    if stages:
        for stage_batches, stage_steps in stages:
            remaining = range(max(stage_steps.start, steps.start), stage_steps.stop)
            if remaining:
                graphs = _graphs(model, optimizer, stage_batches, rows(stage_steps.start), config, world)
                yield from _run_graphs(graphs, stage_steps.start, remaining, steps.stop, config, world, stop)
        return
    captured = CapturedStep(model, optimizer, config, world) if is_single_gpu else None

    def run_step(batch: Batch) -> StepResult:
        if captured is not None:
            return captured(batch, stop.is_requested)
        return training_step(model, optimizer, batch, config, world, stop.is_requested)

    with closing(prefetch(batches, steps, rows, world.device)) as data:
        for step, (batch, wait_seconds) in zip(steps, data, strict=True):
            start = time.perf_counter() - wait_seconds
            rate = learning_rate((step + 1) / steps.stop, config)
            set_learning_rate(optimizer, rate)
            _seed_step(config, step, world)
            result = run_step(batch)
            tokens, seconds = batch.inputs.numel() * world.size, time.perf_counter() - start
            yield StepStats(result, rate, batch.inputs.shape[1], tokens, seconds, wait_seconds)


def _seed_step(config: TrainingConfig, step: int, world: World) -> None:
    """Seed the model's random numbers by the step alone, so that a resume needs no generator state."""
    torch.manual_seed(hash((config.seed, step, world.rank)))


def _is_single_gpu(world: World) -> bool:
    return world.size == 1 and world.device.type == "cuda"


def _device_stages(batches: Batches, steps: int) -> list[tuple[DeviceBatches, range]]:
    """Return the batches and steps of each stage if the device can generate all of them, else nothing."""
    if isinstance(batches, StagedBatches):
        stages = [(batches.by_length[s.length], range(s.first_step, s.end)) for s in batches.stages]
    else:
        stages = [(batches, range(steps))]
    on_device = [(source, span) for source, span in stages if isinstance(source, DeviceBatches)]
    return on_device if len(on_device) == len(stages) else []


def _graphs(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DeviceBatches,
    rows: range,
    config: TrainingConfig,
    world: World,
) -> dict[int, CapturedSteps]:
    """Return graphs by their number of steps: 1, and a divisor of STEPS_PER_GRAPH.

    The divisor makes validations and checkpoints fall between graphs.
    """
    count = math.gcd(STEPS_PER_GRAPH, config.validate_every, config.checkpoint_every)
    return {size: CapturedSteps(model, optimizer, batches, rows, config, world, size) for size in {1, count}}


def _run_graphs(
    graphs: dict[int, CapturedSteps],
    offset: int,
    steps: range,
    last: int,
    config: TrainingConfig,
    world: World,
    stop: StopRequest,
) -> Generator[StepStats, None, None]:
    """Run `steps` of a run of `last` steps; its batches count from step `offset`."""
    count = max(graphs)
    step = steps.start
    while step < steps.stop:
        size = count if step % count == 0 and step + count <= steps.stop else 1
        start = time.perf_counter()
        rates = [learning_rate((step + 1 + index) / last, config) for index in range(size)]
        _seed_step(config, step, world)  # later steps of a graph continue the stream of its first
        results = graphs[size](step - offset, rates)
        seconds = (time.perf_counter() - start) / size
        results[-1] = replace(results[-1], stop_requested=stop.is_requested)
        for result, rate in zip(results, rates, strict=True):
            yield StepStats(result, rate, graphs[size].length, graphs[size].tokens, seconds, wait_seconds=0.0)
        step += size
