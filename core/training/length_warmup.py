"""Length warm-up (Gu and Dao 2023, section E.3): double the length at constant tokens per step.

A run plans its stages before it starts. The batch of a step depends only on its stage and its number in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from core.training.batches import Batch, Batches


@dataclass(frozen=True)
class Stage:
    """Consecutive steps with sequences of one length."""

    length: int  # tokens in a sequence
    batch_size: int  # sequences per step, over all ranks
    first_step: int  # from 0
    steps: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first_step + self.steps

    @property
    def tokens(self) -> int:
        """Number of tokens in all steps."""
        return self.steps * self.batch_size * self.length


def doubling_lengths(first: int, last: int) -> list[int]:
    """Return the lengths first, 2 * first, 4 * first, ..., last.

    Raises ValueError if last is not first times a power of two.
    """
    lengths = [first]
    while 0 < lengths[-1] < last:
        lengths.append(2 * lengths[-1])
    if first < 1 or lengths[-1] != last:
        raise ValueError(
            f"Doubling {first:,} never gives {last:,}. Set the first length to the last one divided by a "
            "power of two."
        )
    return lengths


def plan_stages(stage_tokens: Mapping[int, float], tokens_per_step: int) -> list[Stage]:
    """Plan one stage per length, in order; `stage_tokens` maps a length to its number of tokens.

    Each stage begins at the step nearest to the end of the tokens before it, so that rounding errors do not
    add up. Raises ValueError, naming the length, if a step does not hold a whole number of sequences or a
    stage has no step.
    """
    ends = [math.floor(tokens / tokens_per_step + 0.5) for tokens in accumulate(stage_tokens.values())]
    stages = []
    for (length, tokens), first_step, end in zip(stage_tokens.items(), [0, *ends], ends, strict=False):
        if tokens_per_step % length:
            raise ValueError(
                f"{tokens_per_step:,} tokens per step are not a whole number of sequences of {length:,}. "
                "Make the tokens per step a multiple of every length."
            )
        if end <= first_step:
            raise ValueError(
                f"The stage of length {length:,} has {tokens:,.0f} tokens, too few for a step of "
                f"{tokens_per_step:,}. Give it more epochs or tokens, or use fewer tokens per step."
            )
        stages.append(Stage(length, tokens_per_step // length, first_step, end - first_step))
    return stages


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Return the stage of a step (from 0, below the end of the last stage)."""
    return next(stage for stage in stages if step < stage.end)


@dataclass(frozen=True)
class StagedBatches:
    """Batches of a run from the batches of each length, which count steps from the start of their stage."""

    stages: Sequence[Stage]
    by_length: Mapping[int, Batches]

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor] | Batch:
        stage = stage_at(self.stages, step)
        return self.by_length[stage.length](step - stage.first_step, rows)


def stage_table(stages: Sequence[Stage]) -> str:
    """Format the stages as a table; steps count from 1."""
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
