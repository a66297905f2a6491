"""Progress of a run: the part of a checkpoint besides tensors."""

import math
from dataclasses import dataclass, field

from core.training.step import StepResult


@dataclass
class Progress:
    """Counts and results of the first `step` steps; every value is plain and fits JSON."""

    step: int = 0  # completed steps, including skipped ones
    tokens: int = 0  # input positions over all ranks
    seconds: float = 0.0  # in training steps
    waited_seconds: float = 0.0  # part of `seconds` spent waiting for data
    wall_seconds: float = 0.0  # total, with validation, checkpoints and set-up
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss: float | None = None  # of the last step that was not skipped, nats per target
    validation: dict[str, float] = field(default_factory=dict)  # metrics of the last validation
    best_step: int | None = None
    best_loss: float | None = None
    stages: list[dict[str, float]] = field(default_factory=list)  # completed stages of a length warm-up

    def add_step(self, result: StepResult, tokens: int, seconds: float, wait_seconds: float) -> None:
        """Add one step; `wait_seconds` is the part of `seconds` spent waiting for data."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.waited_seconds += wait_seconds
        if result.is_skipped:
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            self.loss = result.loss

    def end_stage(self, length: int) -> dict[str, float]:
        """End a stage of sequences of `length`; return its amounts since the previous stage."""
        amounts = {
            name: getattr(self, name) - sum(stage[name] for stage in self.stages)
            for name in ("tokens", "seconds", "waited_seconds")
        }
        stage = {
            "length": length,
            **amounts,
            "tokens_per_second": amounts["tokens"] / amounts["seconds"],
            "data_wait": amounts["waited_seconds"] / amounts["seconds"],
        }
        self.stages.append(stage)
        return stage

    def add_validation(self, metrics: dict[str, float]) -> bool:
        """Add a validation; return True if its loss is the lowest so far."""
        self.validation = metrics
        is_best = metrics["loss"] < (math.inf if self.best_loss is None else self.best_loss)
        if is_best:
            self.best_step, self.best_loss = self.step, metrics["loss"]
        return is_best
