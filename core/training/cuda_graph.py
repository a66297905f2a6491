"""Training steps as CUDA graphs: the same kernels on the same numbers, without Python in between.

Python takes milliseconds to launch the hundreds of kernels of a step, most of the time of a small model. A
graph is captured once for fixed shapes and replayed with one call.
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
"""Eager steps of one shape before a capture, in which kernels are compiled and tuned.

Skipped steps do not count: optimizer moments created inside a graph would be zeroed at each replay.
"""

MEMORY_FRACTION = 0.25
"""Largest fraction of the GPU's memory that an eager step may use. The memory of a graph is unusable for
anything else, and the kernels of larger steps are long enough to hide Python."""


@runtime_checkable
class DeviceBatches(Protocol):
    """Batches that a GPU can generate itself; on the CPU they behave as any other."""

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets) of these rows of the global batch of a step, (rows, length) on the CPU."""

    def on_device(self, steps: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """Return the same for steps (n,) int64 on their device, without a sync: (n, rows, length)."""


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """Capture `work` as a CUDA graph and return its replay; nothing is computed yet.

    `work` must have run before. Its input and output tensors keep their addresses: update them in place.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may fetch data
        work()
    return graph.replay


def step_without_sync(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    world: World,
) -> Tensor:
    """Run training_step with a fused optimizer that decides on the device whether to skip.

    Returns (2,): the loss, and the norm of the gradient before clipping.
    """
    stats = clipped_gradients(model, batch, config, world)[:2]
    optimizer.found_inf = (~stats.isfinite().all()).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    optimizer.zero_grad()
    return stats


class CapturedStep:
    """training_step of a single process on a GPU, replayed as a graph while the shapes of batches repeat.

    Packed batches rarely repeat a shape and run as training_step.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, world: World
    ):
        self._model, self._optimizer, self._config, self._world = model, optimizer, config, world
        self._shapes: object = None
        self._eager_steps = 0  # of these shapes, skipped ones excluded
        self._batch: Batch | None = None
        self._stats = torch.zeros(2, device=world.device)
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch, stop_requested: bool) -> StepResult:
        """Run one step, with the same numbers as training_step."""
        shapes = [(tensor.shape, tensor.dtype) for tensor in batch if tensor is not None]
        if shapes != self._shapes:
            self._shapes, self._eager_steps, self._batch, self._replay = shapes, 0, None, None
        is_packed = batch.cu_seqlens is not None
        is_due = self._eager_steps == WARM_UP and self._replay is None
        if is_due and not is_packed and _is_small(self._world.device):
            self._batch = batch.map(Tensor.clone)
            self._replay = capture(self._work)
        if self._batch is None or self._replay is None:
            arguments = self._model, self._optimizer, batch, self._config, self._world
            result = training_step(*arguments, stop_requested)
            self._eager_steps += not result.is_skipped
            return result
        self._batch.inputs.copy_(batch.inputs)
        self._batch.targets.copy_(batch.targets)
        self._replay()
        loss, norm = self._stats.tolist()
        return StepResult(loss, norm, stop_requested)

    def _work(self) -> None:
        assert self._batch is not None
        arguments = self._model, self._optimizer, self._batch, self._config, self._world
        self._stats.copy_(step_without_sync(*arguments))


def _is_small(device: torch.device) -> bool:
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= MEMORY_FRACTION * total


class CapturedSteps:
    """Graph of `count` consecutive steps of a single process, including the generation of their batches."""

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
        self._stats = torch.zeros(count, 2, device=world.device)
        self._runs = 0
        self._work = self._run_eagerly
        self.length = 0  # of the sequences of the last run
        self.tokens = 0  # of each of its steps

    def __call__(self, first: int, rates: Sequence[float]) -> list[StepResult]:
        """Run `count` steps of `batches` from number `first` on, one per learning rate."""
        self._steps.copy_(torch.arange(first, first + len(rates)))
        self._rates.copy_(torch.tensor(rates))
        if self._runs == 1:  # the first run compiled and tuned the kernels
            self._work = capture(self._run_eagerly)
        self._runs += 1
        self._work()
        return [StepResult(loss, norm, stop_requested=False) for loss, norm in self._stats.tolist()]

    def _run_eagerly(self) -> None:
        groups = self._optimizer.param_groups
        own_rates = [group["lr"] for group in groups]
        inputs, targets = self._batches.on_device(self._steps, self._rows)
        self.length = inputs.shape[2]
        self.tokens = inputs[0].numel()
        for index, batch in enumerate(zip(inputs, targets, strict=True)):
            for group in groups:
                group["lr"] = self._rates[index]
            stats = step_without_sync(self._model, self._optimizer, Batch(*batch), self._config, self._world)
            self._stats[index].copy_(stats)
        for group, rate in zip(groups, own_rates, strict=True):
            group["lr"] = rate
