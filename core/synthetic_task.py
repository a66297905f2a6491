"""The paper's two synthetic tasks (Gu and Dao 2023, sections 4.1 and E.1), in 16 symbols.

Selective Copying: 16 data symbols stand at random places of a noise that is one symbol; 16 markers follow, at
which the data is asked for in order. What is to be kept depends on the input, so that a time-invariant
recurrence, which treats all positions alike, cannot do it at random spacings.

Induction Heads: random symbols, among them once the prefix, followed by the symbol to recall; the last symbol
is the prefix again, at which the model is to recall. Positions in between may be any number.

Sequence i of a step is a function of (seed, step, i), made wherever the step's number is.
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
TOKENS_AT_ONCE = 1 << 20  # that a measurement runs through a model, but one sequence at least

TaskName = Literal["selective_copying", "induction_heads"]
TASKS: tuple[TaskName, ...] = ("selective_copying", "induction_heads")

_SYMBOLS, _PLACES = range(2)  # streams of a seed
_ROW_BITS, _POSITION_BITS = 16, 24  # of a counter


@dataclass(frozen=True)
class SyntheticBatches:
    """Endless batches of a task, DeviceBatches of core.training.

    length: positions in which the data of Selective Copying is spread, so that sequences are 16 longer; the
        sequence itself of Induction Heads.
    Raises ValueError for a length in which the task does not fit, or longer than counters reach.
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
    def asked(self) -> int:
        """How many positions, the last ones, have a target."""
        return COPIED if self.task == "selective_copying" else 1

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """(inputs uint8, targets int8), (rows, positions) each, -100 where nothing is asked for."""
        inputs, targets = self.on_device(torch.tensor([step]), rows)
        return inputs[0], targets[0]

    def on_device(self, steps: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """The same for each of steps (n,) int64, on its device: (n, rows, positions)."""
        row = torch.arange(rows.start, rows.stop, device=steps.device)
        sequence = ((steps[:, None] << _ROW_BITS) + row) << _POSITION_BITS
        make = _selective_copying if self.task == "selective_copying" else _induction_heads
        inputs, targets = make(sequence[..., None], self.length, self.seed)
        return inputs.to(torch.uint8), targets.to(torch.int8)


@torch.no_grad()
def measured(
    model: SequenceModel, batches: SyntheticBatches, sequences: int, device: torch.device
) -> dict[str, float]:
    """The loss (nats a target) and the accuracy of a model on the first sequences of step 0."""
    count = rows_per_pass(sequences, batches.length, TOKENS_AT_ONCE)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for first in range(0, sequences, count):
        rows = range(first, min(first + count, sequences))
        inputs, targets = (tensor[0] for tensor in batches.on_device(step, rows))
        hidden = model.hidden(inputs)
        logits = model.head(hidden[:, -batches.asked :]).float().flatten(0, 1)
        asked = targets[:, -batches.asked :].flatten().long()
        loss += cross_entropy(logits, asked, reduction="sum")
        right += (logits.argmax(-1) == asked).sum()
    count = sequences * batches.asked
    return {"loss": loss.item() / count, "accuracy": right.item() / count}


def _selective_copying(sequence: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """sequence: (..., 1), the first counter of each. Returns (..., length + COPIED) twice."""
    counter = sequence + torch.arange(length, device=sequence.device)
    order = random_words(seed, _PLACES, counter)
    places = order.topk(COPIED, dim=-1, sorted=False).indices.sort(dim=-1).values
    number = torch.arange(COPIED, device=sequence.device)
    data = 1 + random_below(SPECIAL - 1, seed, _SYMBOLS, sequence + number)
    noise = torch.full_like(counter, NOISE).scatter(-1, places, data)
    inputs = torch.cat([noise, torch.full_like(data, SPECIAL)], dim=-1)
    targets = torch.cat([torch.full_like(noise, IGNORED), data], dim=-1)
    return inputs, targets


def _induction_heads(sequence: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """sequence: (..., 1), the first counter of each. Returns (..., length) twice."""
    position = torch.arange(length, device=sequence.device)
    symbols = random_below(SPECIAL, seed, _SYMBOLS, sequence + position)
    prefix = random_below(length - 2, seed, _PLACES, sequence)
    is_last = position == length - 1
    inputs = symbols.masked_fill((position == prefix) | is_last, SPECIAL)
    recalled = symbols.gather(-1, prefix + 1)
    return inputs, recalled.expand_as(inputs).masked_fill(~is_last, IGNORED)
