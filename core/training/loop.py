"""The training loop."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from core.checkpoints.checkpoint import load_checkpoint
from core.training.average import ParameterAverage
from core.training.batches import Batches
from core.training.config import TrainingConfig
from core.training.console import Console
from core.training.distributed import World
from core.training.length_warmup import Stage, stage_at
from core.training.optimizer import adamw
from core.training.progress import Progress
from core.training.report import peak_memory_gib, summary
from core.training.run_folder import HOW_TO_RESUME, RunFolder
from core.training.step import StepResult, autocast
from core.training.steps import StepStats, run_steps
from core.training.stopping import NonFiniteError, StopRequest, TrainingInterrupted

Validate = Callable[[nn.Module], dict[str, float]]
"""Metrics of a model on held-out data, including "loss" (lower is better). Every rank calls it."""


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    run: RunFolder,
    world: World,
    unit: str = "token",
    validate: Validate | None = None,
    stages: Sequence[Stage] = (),
) -> Progress:
    """Train `model` (on the world's device) from the latest checkpoint of the run to the last step.

    The model maps the inputs of a batch to logits (..., vocabulary); the loss is their cross entropy over the
    targets of the global batch. With `config.backpropagation_length` the model also maps (inputs, state) to
    (logits, state), starting at its `initial_state(rows)`; for packed batches it takes `cu_seqlens`.

    unit: name of a token ("base", "sample", "byte").
    stages: stages of a length warm-up, which replace `config.steps` and `config.batch_size`; the end of each
    is logged and validated.

    Returns on every rank only after rank 0 has finished writing. Raises ValueError if the batch does not
    divide over the ranks, NonFiniteError after `config.max_skipped` consecutive steps without a finite loss
    and gradient or a validation without a finite loss, TrainingInterrupted after SIGINT or SIGTERM (once a
    checkpoint is written), CheckpointError and RunFolderError if the folder cannot be used.
    """
    start = time.perf_counter()
    steps = stages[-1].end if stages else config.steps
    stage_ends = {stage.end: stage for stage in stages}

    def rows(step: int) -> range:
        return world.rows(stage_at(stages, step).batch_size if stages else config.batch_size)

    for first_step in [stage.first_step for stage in stages] or [0]:
        rows(first_step)  # raises now for a batch that does not divide, not in the middle of the run
    optimizer = adamw(model, config)
    average = ParameterAverage(model, config.ema) if config.ema else None
    progress = _restore(model, optimizer, average, run)
    world.broadcast(model)
    run.require_space(model, config.keep, with_average=average is not None)
    run.begin(progress.step)
    start -= progress.wall_seconds
    speed = Speed()
    remaining = range(progress.step, steps)

    with (
        closing(run),
        StopRequest() as stop,
        Console(steps, progress.step, unit, is_visible=world.is_rank_0) as console,
        closing(run_steps(model, optimizer, batches, config, world, stop, remaining, rows)) as all_stats,
    ):
        model.train()
        for stats in all_stats:
            result = stats.result
            if average is not None and not result.is_skipped:
                average.update(model)
            progress.add_step(result, stats.tokens, stats.seconds, stats.wait_seconds)
            speed.add_step(stats.tokens, stats.seconds, stats.wait_seconds)
            is_last = progress.step == steps
            is_end = is_last or progress.step in stage_ends
            console.advance(result.loss, speed.tokens_per_second, stats.learning_rate)
            if result.is_skipped:
                _report_skipped(result, progress, config, run, console)
            elif progress.step % config.log_every == 0 or is_end:
                run.log("train", progress.step, _metrics(stats, progress, speed, world))
                speed = Speed()
            if progress.step in stage_ends:
                length = stage_ends[progress.step].length
                run.log("stage", progress.step, progress.end_stage(length))
                speed = Speed()

            if validate is not None and (progress.step % config.validate_every == 0 or is_end):
                _validate(validate, model, average, config, progress, run, world)
            progress.wall_seconds = time.perf_counter() - start
            if progress.step % config.checkpoint_every == 0 or is_last or result.stop_requested:
                run.save(model, optimizer, average.tensors if average else None, progress, config.keep)
            if result.stop_requested and not is_last:
                message = f"Stopped after step {progress.step} of {steps}; {run.path} has a checkpoint."
                console.print(f"{message} {HOW_TO_RESUME}")
                raise TrainingInterrupted(message)
        run.finish(summary(progress, model, world, unit))
    world.barrier()  # rank 0 has written the folder
    return progress


@dataclass
class Speed:
    """Tokens and seconds since the last line of the log."""

    tokens: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0

    def add_step(self, tokens: int, seconds: float, wait_seconds: float) -> None:
        """Add one step; `wait_seconds` is the part of `seconds` spent waiting for data."""
        self.tokens += tokens
        self.seconds += seconds
        self.wait_seconds += wait_seconds

    @property
    def tokens_per_second(self) -> float:
        """Rate over all ranks."""
        return self.tokens / self.seconds

    @property
    def data_wait(self) -> float:
        """Fraction of the time spent waiting for data."""
        return self.wait_seconds / self.seconds


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ParameterAverage | None, run: RunFolder
) -> Progress:
    """Load the latest checkpoint of the run, if there is one."""
    if run.latest is None:
        return Progress()
    header = load_checkpoint(run.latest, model, optimizer, average.tensors if average else None)
    return Progress(**header.progress)


def _metrics(stats: StepStats, progress: Progress, speed: Speed, world: World) -> dict[str, float]:
    memory = peak_memory_gib(world.device)
    return {
        "loss": stats.result.loss,
        "gradient_norm": stats.result.gradient_norm,
        "learning_rate": stats.learning_rate,
        "length": stats.length,
        "tokens": progress.tokens,
        "tokens_per_second": speed.tokens_per_second,
        "data_wait": speed.data_wait,
        **({} if memory is None else {"peak_memory_gib": memory}),
    }


def _report_skipped(
    result: StepResult, progress: Progress, config: TrainingConfig, run: RunFolder, console: Console
) -> None:
    """Log a step without finite loss and gradient; raise NonFiniteError after too many in a row."""
    values = {
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "skipped_in_a_row": progress.skipped_in_a_row,
    }
    run.log("skipped", progress.step, values)
    numbers = f"loss {result.loss}, gradient norm {result.gradient_norm}"
    console.print(
        f"Step {progress.step} was skipped, because it is not finite ({numbers}); "
        f"{progress.skipped_in_a_row} in a row, {config.max_skipped} end the run."
    )
    if progress.skipped_in_a_row >= config.max_skipped:
        checkpoint = f"The last checkpoint is {run.latest}." if run.latest else "There is no checkpoint yet."
        raise NonFiniteError(
            f"Training stopped at step {progress.step}: {config.max_skipped} steps in a row had no finite "
            f"loss and gradient (now {numbers}). {checkpoint} "
            "Lower learning_rate, lengthen warmup, or use precision fp32."
        )


def _validate(
    validate: Validate,
    model: nn.Module,
    average: ParameterAverage | None,
    config: TrainingConfig,
    progress: Progress,
    run: RunFolder,
    world: World,
) -> None:
    """Validate the averaged parameters if there are any, else the parameters; save the best."""
    model.eval()
    averaged = average.in_place_of_parameters(model) if average else nullcontext()
    with torch.no_grad(), autocast(config, world.device), averaged:
        metrics = validate(model)
    model.train()
    run.log("validation", progress.step, metrics)
    if not math.isfinite(metrics["loss"]):
        checkpoint = f"The last checkpoint is {run.latest}." if run.latest else "There is no checkpoint."
        raise NonFiniteError(
            f"The validation loss after step {progress.step} is {metrics['loss']}. {checkpoint} Lower "
            "learning_rate, lengthen warmup, or use precision fp32."
        )
    if progress.add_validation(metrics):
        run.save_best(model, average.tensors if average else None, progress)
