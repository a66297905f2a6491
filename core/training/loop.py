"""The training loop."""

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
from core.training.console import Screen
from core.training.distributed import World
from core.training.length_warmup import Stage, stage_at
from core.training.optimizer import adamw
from core.training.progress import Progress
from core.training.report import peak_memory_gib, summary
from core.training.run_folder import HOW_TO_RESUME, RunFolder
from core.training.step import StepResult, autocast
from core.training.steps import Taken, run_steps
from core.training.stopping import NonFiniteError, StopRequest, TrainingInterrupted

Validate = Callable[[nn.Module], dict[str, float]]
"""Metrics of a model on held-out data, "loss" (lower is better) among them. Every process calls it."""


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
    """Train `model` (on the world's device) up to the last step, from where the run stands.

    The model maps a batch's inputs to logits, whose last axis is the vocabulary; the loss is their cross
    entropy over the real targets of the global batch. With `config.backpropagation_length` the model also
    maps (inputs, state) to (logits, state), from its `initial_state(rows)` on, and where batches are packed
    it takes their `cu_seqlens`. `unit` names a token ("base", "sample", "byte"). The `stages` of a length
    warm-up replace `config.steps` and `config.batch_size`; the end of each is logged and
    validated. When it returns, in any process, all that the run writes is there.

    Raises ValueError if the batch does not divide over the processes, NonFiniteError after
    `config.max_skipped` steps in a row without finite loss and gradient, TrainingInterrupted after SIGINT or
    SIGTERM (once a checkpoint is written), CheckpointError and RunFolderError if the folder cannot be used.
    """
    began = time.perf_counter()
    steps = stages[-1].end if stages else config.steps
    stage_ends = {stage.end: stage for stage in stages}

    def rows(step: int) -> range:
        return world.rows(stage_at(stages, step).batch_size if stages else config.batch_size)

    for first_step in [stage.first_step for stage in stages] or [0]:
        rows(first_step)  # a batch that does not divide is refused now, not in the middle of the run
    optimizer = adamw(model, config)
    average = ParameterAverage(model, config.ema) if config.ema else None
    progress = _restore(model, optimizer, average, run)
    world.broadcast(model)
    run.require_space(model, config.keep, with_average=average is not None)
    run.begin(progress.step)
    began -= progress.wall_seconds
    speed = Speed()
    left = range(progress.step, steps)

    with (
        closing(run),
        StopRequest() as stop,
        Screen(steps, progress.step, unit, visible=world.is_rank_0) as screen,
        closing(run_steps(model, optimizer, batches, config, world, stop, left, rows)) as taken,
    ):
        model.train()
        for step in taken:
            result = step.result
            if average is not None and not result.skipped:
                average.update(model)
            progress.add_step(result, step.tokens, step.seconds, step.waited)
            speed.add_step(step.tokens, step.seconds, step.waited)
            is_last = progress.step == steps
            is_end = is_last or progress.step in stage_ends
            screen.advance(result.loss, speed.tokens_per_second, step.learning_rate)
            if result.skipped:
                _report_skipped(result, progress, config, run, screen)
            elif progress.step % config.log_every == 0 or is_end:
                run.log("train", progress.step, _metrics(step, progress, speed, world))
                speed = Speed()
            if progress.step in stage_ends:
                length = stage_ends[progress.step].length
                run.log("stage", progress.step, progress.end_stage(length))
                speed = Speed()

            if validate is not None and (progress.step % config.validate_every == 0 or is_end):
                _validate(validate, model, average, config, progress, run, world)
            progress.wall_seconds = time.perf_counter() - began
            if progress.step % config.checkpoint_every == 0 or is_last or result.stop_requested:
                run.save(model, optimizer, average.tensors if average else None, progress, config.keep)
            if result.stop_requested and not is_last:
                stopped = f"Stopped after step {progress.step} of {steps}; {run.path} has a checkpoint."
                screen.say(f"{stopped} {HOW_TO_RESUME}")
                raise TrainingInterrupted(stopped)
        run.finish(summary(progress, model, world, unit))
    world.barrier()  # until the folder is whole
    return progress


@dataclass
class Speed:
    """Tokens and seconds since the last line of the log."""

    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add_step(self, tokens: int, seconds: float, waited: float) -> None:
        self.tokens += tokens
        self.seconds += seconds
        self.waited += waited

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def data_wait(self) -> float:
        """The fraction of the time that was spent waiting for data."""
        return self.waited / self.seconds


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ParameterAverage | None, run: RunFolder
) -> Progress:
    if run.latest is None:
        return Progress()
    header = load_checkpoint(run.latest, model, optimizer, average.tensors if average else None)
    return Progress(**header.progress)


def _metrics(step: Taken, progress: Progress, speed: Speed, world: World) -> dict[str, float]:
    memory = peak_memory_gib(world.device)
    return {
        "loss": step.result.loss,
        "gradient_norm": step.result.gradient_norm,
        "learning_rate": step.learning_rate,
        "length": step.length,
        "tokens": progress.tokens,
        "tokens_per_second": speed.tokens_per_second,
        "data_wait": speed.data_wait,
        **({} if memory is None else {"peak_memory_gib": memory}),
    }


def _report_skipped(
    result: StepResult, progress: Progress, config: TrainingConfig, run: RunFolder, screen: Screen
) -> None:
    """Log a step without finite loss and gradient; raise NonFiniteError at the last of too many in a row."""
    values = {
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "skipped_in_a_row": progress.skipped_in_a_row,
    }
    run.log("skipped", progress.step, values)
    what = f"loss {result.loss}, gradient norm {result.gradient_norm}"
    screen.say(
        f"Step {progress.step} was skipped, because it is not finite ({what}); "
        f"{progress.skipped_in_a_row} in a row, {config.max_skipped} end the run."
    )
    if progress.skipped_in_a_row >= config.max_skipped:
        kept = f"The last checkpoint is {run.latest}." if run.latest else "There is no checkpoint yet."
        raise NonFiniteError(
            f"Training stopped at step {progress.step}: {config.max_skipped} steps in a row had no finite "
            f"loss and gradient (now {what}). {kept} "
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
    """Validate the averaged parameters if there are any, else the parameters; keep the best."""
    model.eval()
    averaged = average.in_place_of_parameters(model) if average else nullcontext()
    with torch.no_grad(), autocast(config, world.device), averaged:
        metrics = validate(model)
    model.train()
    run.log("validation", progress.step, metrics)
    if progress.validated(metrics):
        run.save_best(model, average.tensors if average else None, progress)
