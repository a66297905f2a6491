"""How far a run has come: what a checkpoint carries besides tensors."""

import math
from dataclasses import dataclass, field

from core.training.step import StepResult


@dataclass
class Progress:
    """Counts and results up to and with step `step`; every value is plain and fits JSON."""

    step: int = 0  # steps that are done, the skipped ones included
    tokens: int = 0  # input positions seen, over all processes
    seconds: float = 0.0  # spent in training steps
    waited_seconds: float = 0.0  # of those, spent waiting for data
    wall_seconds: float = 0.0  # spent in all: with validation, checkpoints and set-up
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss: float | None = None  # of the last step that was not skipped, in nats a target
    validation: dict[str, float] = field(default_factory=dict)  # the last
    best_step: int | None = None
    best_loss: float | None = None
    stages: list[dict[str, float]] = field(default_factory=list)  # of a length warm-up, those that are done

    def add_step(self, result: StepResult, tokens: int, seconds: float, waited: float) -> None:
        """Take in a step that saw `tokens` and took `seconds`, `waited` of them for data."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.waited_seconds += waited
        if result.skipped:
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            self.loss = result.loss

    def end_stage(self, length: int) -> dict[str, float]:
        """Take in the end of a stage of sequences of `length`: what has been added since the one before."""
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

    def validated(self, metrics: dict[str, float]) -> bool:
        """Take in a validation; True if its loss is the lowest so far."""
        self.validation = metrics
        is_best = metrics["loss"] < (math.inf if self.best_loss is None else self.best_loss)
        if is_best:
            self.best_step, self.best_loss = self.step, metrics["loss"]
        return is_best
