"""The training step as a CUDA graph: the same kernels on the same numbers, without Python between them.

Python takes milliseconds to start a step's hundreds of kernels, which is most of a small model's time. A
graph is recorded once, for fixed shapes, and started again by one call.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.training.batches import Batch
from core.training.config import TrainingConfig
from core.training.distributed import World
from core.training.step import StepResult, clipped_gradients, training_step

WARM_UP = 3
"""Ordinary steps of one shape before a graph is recorded: kernels are compiled and chosen in them.

Skipped ones do not count: moments that the optimizer made inside a graph would be zeroed at each replay.
"""

MEMORY_SHARE = 0.25
"""Of the GPU's memory, that an ordinary step may have taken. A graph keeps its memory from everything else;
the kernels of larger steps are long enough to hide Python."""


@runtime_checkable
class DeviceBatches(Protocol):
    """Batches that a GPU can make itself; on the CPU they are like any other."""

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of these rows of the global batch of a step, (rows, length) on the CPU."""

    def on_device(self, steps: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """The same for each of `steps` (n,) int64, where that is: (n, rows, length), without waiting."""


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """What does again, on the GPU, all that `work` starts there; nothing is computed yet.

    `work` must have run before. What it reads and writes stays where it is now: give it new values in place.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may fetch data meanwhile
        work()
    return graph.replay


def step_without_sync(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    world: World,
) -> Tensor:
    """training_step for a fused optimizer, deciding on the device whether to skip: nobody waits for it.

    Returns (2,): the loss, and the norm of the gradient before clipping.
    """
    told = clipped_gradients(model, batch, config, world)[:2]
    optimizer.found_inf = (~told.isfinite().all()).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    optimizer.zero_grad()
    return told


class CapturedStep:
    """training_step of a process alone on a GPU; a graph replays it while the shapes of batches repeat.

    Packed batches, which hardly ever have the same shape again, are left to training_step.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, world: World
    ):
        self._model, self._optimizer, self._config, self._world = model, optimizer, config, world
        self._shapes: object = None
        self._taken = 0  # steps of these shapes that were not skipped
        self._batch: Batch | None = None
        self._told = torch.zeros(2, device=world.device)
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch, stop_requested: bool) -> StepResult:
        """As training_step, with the same numbers."""
        shapes = [(tensor.shape, tensor.dtype) for tensor in batch if tensor is not None]
        if shapes != self._shapes:
            self._shapes, self._taken, self._batch, self._replay = shapes, 0, None, None
        is_packed = batch.cu_seqlens is not None
        is_due = self._taken == WARM_UP and self._replay is None
        if is_due and not is_packed and _is_small(self._world.device):
            self._batch = batch.map(Tensor.clone)
            self._replay = capture(self._work)
        if self._batch is None or self._replay is None:
            arguments = self._model, self._optimizer, batch, self._config, self._world
            result = training_step(*arguments, stop_requested)
            self._taken += not result.skipped
            return result
        self._batch.inputs.copy_(batch.inputs)
        self._batch.targets.copy_(batch.targets)
        self._replay()
        loss, norm = self._told.tolist()
        return StepResult(loss, norm, stop_requested)

    def _work(self) -> None:
        assert self._batch is not None
        self._told.copy_(
            step_without_sync(self._model, self._optimizer, self._batch, self._config, self._world)
        )


def _is_small(device: torch.device) -> bool:
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= MEMORY_SHARE * total


class CapturedSteps:
    """`count` consecutive steps of a process alone, in one graph that makes their data as well."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: DeviceBatches,
        rows: range,
        config: TrainingConfig,
        world: World,
        count: int,
    ):
        self._model, self._optimizer, self._config, self._world = model, optimizer, config, world
        self._batches, self._rows = batches, rows
        self._steps = torch.zeros(count, dtype=torch.int64, device=world.device)
        self._rates = torch.zeros(count, device=world.device)
        self._told = torch.zeros(count, 2, device=world.device)
        self._runs = 0
        self._work = self._take
        self.length = 0  # of the sequences of the last run
        self.tokens = 0  # of each of its steps

    def __call__(self, first: int, rates: Sequence[float]) -> list[StepResult]:
        """Take as many steps of `batches` as there are rates, `count` of them, from number `first` on."""
        self._steps.copy_(torch.arange(first, first + len(rates)))
        self._rates.copy_(torch.tensor(rates))
        if self._runs == 1:  # the first run has compiled and chosen the kernels
            self._work = capture(self._take)
        self._runs += 1
        self._work()
        return [StepResult(loss, norm, stop_requested=False) for loss, norm in self._told.tolist()]

    def _take(self) -> None:
        groups = self._optimizer.param_groups
        own_rates = [group["lr"] for group in groups]
        inputs, targets = self._batches.on_device(self._steps, self._rows)
        self.length = inputs.shape[2]
        self.tokens = inputs[0].numel()
        for index, batch in enumerate(zip(inputs, targets, strict=True)):
            for group in groups:
                group["lr"] = self._rates[index]
            told = step_without_sync(self._model, self._optimizer, Batch(*batch), self._config, self._world)
            self._told[index].copy_(told)
        for group, rate in zip(groups, own_rates, strict=True):
            group["lr"] = rate
