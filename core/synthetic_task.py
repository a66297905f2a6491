"""Synthetic tasks of the paper (Gu and Dao 2023, sections 4.1 and E.1), in 16 symbols.

Selective Copying: 16 data symbols at random positions among noise (one symbol), then 16 markers, at which the
model repeats the data in order. The input decides which positions matter, so a time-invariant recurrence,
which treats all positions alike, fails at random spacings.

Induction Heads: random symbols with one prefix symbol, followed by the symbol to recall. The last symbol is
the prefix again, at which the model recalls. The distance between the two is arbitrary.

Sequence i of a step is a function of (seed, step, i), computed on the device of the step number.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.models.sequence import SequenceModel
from core.random import random_below, random_words
from core.training.batches import rows_per_pass
from core.training.loss import IGNORED

VOCABULARY_SIZE = 16
NOISE = 0
SPECIAL = 15  # the marker of Selective Copying, the prefix of Induction Heads
COPIED = 16
TOKENS_PER_PASS = 1 << 20  # in an evaluation, at least one sequence

TaskName = Literal["selective_copying", "induction_heads"]
TASKS: tuple[TaskName, ...] = ("selective_copying", "induction_heads")

_SYMBOLS, _POSITIONS = range(2)  # streams of a seed
_ROW_BITS, _POSITION_BITS = 16, 24  # of a counter


@dataclass(frozen=True)
class SyntheticBatches:
    """Endless batches of a task; they implement DeviceBatches of core.training.

    length: positions of the data and noise in Selective Copying (sequences are 16 longer); length of the
        sequences in Induction Heads.
    Raises ValueError for a length too short for the task or too long for the counters.
    """

    task: TaskName
    length: int
    seed: int

    def __post_init__(self) -> None:
        shortest = {"selective_copying": COPIED, "induction_heads": 3}[self.task]
        if not shortest <= self.length < 1 << _POSITION_BITS:
            raise ValueError(
                f"The length of {self.task} is {self.length:,}; it must be from {shortest} to "
                f"{(1 << _POSITION_BITS) - 1:,}."
            )

    @property
    def target_count(self) -> int:
        """Number of positions with a target, at the end of a sequence."""
        return COPIED if self.task == "selective_copying" else 1

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """Return (inputs uint8, targets int8), each (rows, positions); target -100 is ignored."""
        inputs, targets = self.on_device(torch.tensor([step]), rows)
        return inputs[0], targets[0]

    def on_device(self, steps: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """Return the same for steps (n,) int64 on their device: (n, rows, positions)."""
        row = torch.arange(rows.start, rows.stop, device=steps.device)
        sequence = ((steps[:, None] << _ROW_BITS) + row) << _POSITION_BITS
        make = _selective_copying if self.task == "selective_copying" else _induction_heads
        inputs, targets = make(sequence[..., None], self.length, self.seed)
        return inputs.to(torch.uint8), targets.to(torch.int8)


@torch.no_grad()
def evaluate(
    model: SequenceModel, batches: SyntheticBatches, sequences: int, device: torch.device
) -> dict[str, float]:
    """Return the loss (nats per target) and the accuracy of a model on the first sequences of step 0."""
    count = rows_per_pass(sequences, batches.length, TOKENS_PER_PASS)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    loss, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for first in range(0, sequences, count):
        rows = range(first, min(first + count, sequences))
        inputs, targets = (tensor[0] for tensor in batches.on_device(step, rows))
        hidden = model.hidden(inputs)
        logits = model.head(hidden[:, -batches.target_count :]).float().flatten(0, 1)
        expected = targets[:, -batches.target_count :].flatten().long()
        loss += cross_entropy(logits, expected, reduction="sum")
        correct += (logits.argmax(-1) == expected).sum()
    count = sequences * batches.target_count
    return {"loss": loss.item() / count, "accuracy": correct.item() / count}


def _selective_copying(sequence: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (..., length + COPIED) of sequences by their first counters (..., 1)."""
    counter = sequence + torch.arange(length, device=sequence.device)
    order = random_words(seed, _POSITIONS, counter)
    positions = order.topk(COPIED, dim=-1, sorted=False).indices.sort(dim=-1).values
    number = torch.arange(COPIED, device=sequence.device)
    data = 1 + random_below(SPECIAL - 1, seed, _SYMBOLS, sequence + number)
    noise = torch.full_like(counter, NOISE).scatter(-1, positions, data)
    inputs = torch.cat([noise, torch.full_like(data, SPECIAL)], dim=-1)
    targets = torch.cat([torch.full_like(noise, IGNORED), data], dim=-1)
    return inputs, targets


def _induction_heads(sequence: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (..., length) of sequences by their first counters (..., 1)."""
    position = torch.arange(length, device=sequence.device)
    symbols = random_below(SPECIAL, seed, _SYMBOLS, sequence + position)
    prefix = random_below(length - 2, seed, _POSITIONS, sequence)
    is_last = position == length - 1
    inputs = symbols.masked_fill((position == prefix) | is_last, SPECIAL)
    answer = symbols.gather(-1, prefix + 1)
    return inputs, answer.expand_as(inputs).masked_fill(~is_last, IGNORED)
