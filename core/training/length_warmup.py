"""Length warm-up (Mamba, section E.3): sequences double in length while the tokens of a step stay as many.

A run's stages are known before it starts; what a step reads is a function of its stage and its number in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from core.training.batches import Batch, Batches


@dataclass(frozen=True)
class Stage:
    """Consecutive steps whose sequences have one length."""

    length: int  # tokens in a sequence
    batch_size: int  # sequences in a step, over all processes
    first_step: int  # from 0
    steps: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first_step + self.steps

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.length


def doubled_lengths(first: int, last: int) -> list[int]:
    """The lengths first, 2 * first, 4 * first, ... up to last; ValueError if doubling does not lead there."""
    lengths = [first]
    while 0 < lengths[-1] < last:
        lengths.append(2 * lengths[-1])
    if first < 1 or lengths[-1] != last:
        raise ValueError(
            f"Lengths that double from {first:,} never come to {last:,}. Let the first length be the last "
            "one divided by a power of two."
        )
    return lengths


def plan_stages(stage_tokens: Mapping[int, float], tokens_per_step: int) -> list[Stage]:
    """One stage for each length, in their order; `stage_tokens` maps a length to the tokens it is to see.

    A stage begins at the step nearest to where the tokens of those before it end, so that the whole plan is
    off by half a step at most. Raises ValueError, naming the length, for a step that does not hold a whole
    number of sequences, and for a stage without a step.
    """
    ends = [math.floor(tokens / tokens_per_step + 0.5) for tokens in accumulate(stage_tokens.values())]
    stages = []
    for (length, tokens), first_step, end in zip(stage_tokens.items(), [0, *ends], ends, strict=False):
        if tokens_per_step % length:
            raise ValueError(
                f"A step of {tokens_per_step:,} tokens does not hold a whole number of sequences of "
                f"{length:,}. Make the tokens of a step a multiple of every length."
            )
        if end <= first_step:
            raise ValueError(
                f"The stage of length {length:,} would see {tokens:,.0f} tokens, too few for a step of "
                f"{tokens_per_step:,}. Give it more epochs or tokens, or take fewer tokens a step."
            )
        stages.append(Stage(length, tokens_per_step // length, first_step, end - first_step))
    return stages


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage that a step (from 0, below the last stage's end) belongs to."""
    return next(stage for stage in stages if step < stage.end)


@dataclass(frozen=True)
class StagedBatches:
    """The batches of a run from those of each length, which count steps from the start of their stage."""

    stages: Sequence[Stage]
    by_length: Mapping[int, Batches]

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor] | Batch:
        stage = stage_at(self.stages, step)
        return self.by_length[stage.length](step - stage.first_step, rows)


def staged(stages: Sequence[Stage], batches: Mapping[int, Batches]) -> StagedBatches:
    """The batches of a run of these stages from those of each length."""
    return StagedBatches(stages, batches)


def stage_table(stages: Sequence[Stage]) -> str:
    """The stages as a table to print before a run starts, steps counted from 1."""
    header = ("length", "sequences", "first step", "steps", "tokens")
    rows = [
        (stage.length, stage.batch_size, stage.first_step + 1, stage.steps, stage.tokens) for stage in stages
    ]
    total = (sum(stage.steps for stage in stages), sum(stage.tokens for stage in stages))
    lines = [header, *([f"{value:,}" for value in row] for row in rows)]
    lines.append(["total", "", "", *(f"{value:,}" for value in total)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
