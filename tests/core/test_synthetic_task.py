"""Tasks follow their definitions; a sequence depends only on seed, step and row."""

import pytest
import torch
from torch import Tensor

from core.synthetic_task import (
    COPIED,
    NOISE,
    SPECIAL,
    TASKS,
    VOCABULARY_SIZE,
    SyntheticBatches,
    TaskName,
    evaluate,
)
from tests.core.training.toy import CPU


def test_selective_copying_targets_the_data_in_order() -> None:
    inputs, targets = SyntheticBatches("selective_copying", 40, seed=1)(0, range(200))
    assert inputs.shape == targets.shape == (200, 40 + COPIED)
    assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int8)
    body, markers = inputs[:, :40], inputs[:, 40:]
    assert (markers == SPECIAL).all()
    assert (targets[:, :40] == -100).all()
    is_data = body != NOISE
    assert (is_data.sum(1) == COPIED).all()
    assert torch.equal(body[is_data].view(200, COPIED).long(), targets[:, 40:].long())
    assert set(body[is_data].tolist()) == set(range(1, SPECIAL))
    assert is_data.float().mean(0).sub(COPIED / 40).abs().max() < 0.2  # no place is preferred


def test_induction_heads_target_the_symbol_after_the_prefix() -> None:
    inputs, targets = SyntheticBatches("induction_heads", 12, seed=1)(0, range(400))
    assert inputs.shape == targets.shape == (400, 12)
    assert (inputs[:, -1] == SPECIAL).all()
    assert (targets[:, :-1] == -100).all()
    assert ((inputs == SPECIAL).sum(1) == 2).all()
    first = (inputs == SPECIAL).int().argmax(1)
    assert set(first.tolist()) == set(range(10))  # everywhere but before the last prefix
    recalled = inputs[torch.arange(400), first + 1]
    assert torch.equal(recalled.long(), targets[:, -1].long())
    assert set(recalled.tolist()) == set(range(SPECIAL))


@pytest.mark.parametrize("task", TASKS)
def test_sequences_depend_only_on_seed_step_and_row(task: TaskName) -> None:
    batches = SyntheticBatches(task, 30, seed=4)
    whole = batches(7, range(6))
    parts = [batches(7, range(row, row + 1)) for row in range(6)]
    together = batches.on_device(torch.tensor([3, 7]), range(6))
    for index in range(2):
        assert torch.equal(torch.cat([part[index] for part in parts]), whole[index])
        assert torch.equal(together[index][1], whole[index])
    others = [batches(8, range(6)), SyntheticBatches(task, 30, seed=5)(7, range(6)), batches(7, range(6, 12))]
    assert all(not torch.equal(other[0], whole[0]) for other in others)


@pytest.mark.parametrize(("task", "length"), [("selective_copying", 15), ("induction_heads", 2)])
def test_too_short_or_long_length_is_rejected(task: TaskName, length: int) -> None:
    with pytest.raises(
        ValueError, match=rf"The length of {task} is {length}; it must be from {length + 1} to"
    ):
        SyntheticBatches(task, length, seed=0)
    SyntheticBatches(task, length + 1, seed=0)(0, range(2))
    with pytest.raises(ValueError, match="must be from"):
        SyntheticBatches(task, 1 << 24, seed=0)


class Copier(torch.nn.Module):
    """Stub model with `wrong` wrong answers."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.wrong = wrong

    def hidden(self, inputs: Tensor) -> Tensor:
        data = torch.stack([row[:-COPIED][row[:-COPIED] != NOISE] for row in inputs])
        data[: self.wrong] = NOISE
        return torch.cat([inputs[:, :-COPIED], data], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        return 10.0 * torch.nn.functional.one_hot(hidden.long(), VOCABULARY_SIZE)


def test_accuracy_counts_correct_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.synthetic_task.TOKENS_PER_PASS", 1)  # a sequence at a time
    batches = SyntheticBatches("selective_copying", 30, seed=0)
    assert evaluate(Copier(0), batches, 3, CPU)["accuracy"] == 1.0  # type: ignore[arg-type]
    assert evaluate(Copier(1), batches, 3, CPU)["accuracy"] == 0.0  # type: ignore[arg-type]
    monkeypatch.setattr("core.synthetic_task.TOKENS_PER_PASS", 10**6)
    metrics = evaluate(Copier(1), batches, 4, CPU)  # type: ignore[arg-type]
    assert metrics["accuracy"] == 0.75
    assert metrics["loss"] == pytest.approx(0.25 * 10, abs=0.01)
