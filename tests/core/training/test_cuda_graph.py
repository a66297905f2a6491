"""A captured step is the ordinary one, skipped or not; without a GPU, all but the recording is tested."""

import os
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.models.sequence import SequenceModel, SequenceModelConfig
from core.synthetic_task import SyntheticBatches
from core.training import (
    Batch,
    RunFolder,
    Stage,
    StagedBatches,
    TrainingConfig,
    TrainingInterrupted,
    World,
    train,
)
from core.training import cuda_graph as captured
from core.training import steps as taken
from core.training.cuda_graph import WARM_UP, CapturedStep, CapturedSteps, step_without_sync
from core.training.optimizer import adamw, set_learning_rate
from core.training.step import training_step
from core.training.steps import run_steps
from core.training.stopping import StopRequest
from tests.core.training.toy import ALONE, CPU, POISON, ToyModel, toy_batches

GPU = World(0, 1, torch.device("cuda", 0))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Without a GPU a graph is a function that is called again; the list counts what was recorded."""
    recordings: list[int] = []

    def called_again(work: Callable[[], None]) -> Callable[[], None]:
        recordings.append(1)
        return work

    monkeypatch.setattr(captured, "capture", called_again)
    monkeypatch.setattr(captured, "_is_small", lambda device: True)
    return recordings


def fused(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that skips a step by itself, as on a GPU."""
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2), fused=True)


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.clone() for tensor in (*model.parameters(), *moments)]


def after(
    is_captured: bool,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    config: TrainingConfig,
    world: World,
) -> tuple[list[str], list[Tensor]]:
    """What each step told, as text because nan is not nan, and the tensors after the last."""
    captured_step = CapturedStep(model, optimizer, config, world)
    told = []
    for index, batch in enumerate(batches):
        set_learning_rate(optimizer, 1e-2 / (1 + index))
        if is_captured:
            told.append(str(captured_step(batch, False)))
        else:
            told.append(str(training_step(model, optimizer, batch, config, world)))
    return told, tensors_of(model, optimizer)


def assert_same(one: tuple[list[str], list[Tensor]], other: tuple[list[str], list[Tensor]]) -> None:
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def compared(length: int | None, poisoned: tuple[int, ...], **options: Any) -> list[str]:
    """Take the same steps the ordinary way and captured, and compare their bits."""
    config = TrainingConfig(**options)
    batches = [Batch(*toy_batches(step, range(4), poisoned, length)) for step in range(9)]
    results = []
    for is_captured in (False, True):
        model = ToyModel()
        results.append(after(is_captured, model, fused(model), batches, config, ALONE))
    assert_same(*results)
    return results[0][0]


@pytest.mark.parametrize("options", [{}, {"clip": 1e-3}, {"micro_tokens": 10}, {"backpropagation_length": 4}])
def test_a_captured_step_is_the_ordinary_one(started: list[int], options: dict[str, Any]) -> None:
    compared(9, (), **options)
    assert len(started) == 1


def test_a_step_that_is_not_finite_changes_nothing(started: list[int]) -> None:
    told = compared(9, (1, WARM_UP + 1, WARM_UP + 3))
    assert ["nan" in text for text in told] == [step in (1, 4, 6) for step in range(9)]


def test_nothing_is_captured_before_the_optimizer_has_its_moments(started: list[int]) -> None:
    model = ToyModel()
    optimizer = fused(model)
    step = CapturedStep(model, optimizer, TrainingConfig(), ALONE)
    poisoned = range(WARM_UP + 1)
    for number in range(2 * WARM_UP + 2):
        step(Batch(*toy_batches(number, range(4), tuple(poisoned), 5)), False)
        assert bool(optimizer.state) == (number not in poisoned)
        assert len(started) == (number > 2 * WARM_UP)


def test_nothing_is_captured_while_shapes_change(started: list[int]) -> None:
    compared(None, ())  # lengths 5, 6, 7, 5, ...
    assert not started


def test_a_new_shape_is_captured_anew(started: list[int]) -> None:
    model = ToyModel()
    step = CapturedStep(model, fused(model), TrainingConfig(), ALONE)
    for length in (5, 8):
        for number in range(WARM_UP + 2):
            step(Batch(*toy_batches(number, range(4), length=length)), False)
    assert len(started) == 2


def test_a_step_too_large_for_a_graph_stays_ordinary(
    started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "_is_small", lambda device: False)
    compared(9, ())
    assert not started


def test_a_request_to_stop_is_passed_on(started: list[int]) -> None:
    model = ToyModel()
    step = CapturedStep(model, fused(model), TrainingConfig(), ALONE)
    batch = Batch(*toy_batches(0, range(4), length=5))
    results = [step(batch, stop_requested) for stop_requested in (False, True) * 3]
    assert [result.stop_requested for result in results] == [False, True] * 3


def small_model(device: torch.device = CPU, **options: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(vocab_size=16, d_model=16, n_layer=2, **options)).to(device)


def test_many_steps_at_once_are_the_same_steps_one_by_one(started: list[int]) -> None:
    config, batches = TrainingConfig(batch_size=3), SyntheticBatches("induction_heads", 12, seed=1)
    rates = [1e-2 / (1 + step) for step in range(9)]
    one, other = small_model(), small_model()
    one_optimizer, other_optimizer = fused(one), fused(other)
    told = []
    for step, rate in enumerate(rates):
        set_learning_rate(one_optimizer, rate)
        told.append(training_step(one, one_optimizer, Batch(*batches(step, range(3))), config, ALONE))
    three = CapturedSteps(other, other_optimizer, batches, range(3), config, ALONE, count=3)
    assert [result for first in (0, 3, 6) for result in three(first, rates[first : first + 3])] == told
    assert (three.length, three.tokens, len(started)) == (12, 36, 1)
    for a, b in zip(tensors_of(one, one_optimizer), tensors_of(other, other_optimizer), strict=True):
        assert torch.equal(a, b)
    set_learning_rate(other_optimizer, 0.5)
    assert other_optimizer.param_groups[0]["lr"].item() == 0.5


def test_a_skipped_step_leaves_moments_and_their_count(started: list[int]) -> None:
    model = ToyModel()
    optimizer = fused(model)
    batch = Batch(*toy_batches(0, range(4), length=5))
    step_without_sync(model, optimizer, batch, TrainingConfig(), ALONE)
    before = tensors_of(model, optimizer)
    poisoned = batch._replace(inputs=torch.full_like(batch.inputs, POISON))
    told = step_without_sync(model, optimizer, poisoned, TrainingConfig(), ALONE)
    assert not told.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(model, optimizer), strict=True))
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize(("first", "recordings"), [(0, 4), (3, 3), (12, 1)])
def test_steps_on_batches_of_the_device_are_those_on_batches_of_the_cpu(
    first: int, recordings: int, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In stages, from the first step or from a later one; 4 steps of the first are taken one by one."""
    config = TrainingConfig(steps=24, batch_size=3, validate_every=8, checkpoint_every=4)
    stages = [Stage(6, 3, 0, 10), Stage(9, 3, 10, 14)]
    made = {length: SyntheticBatches("induction_heads", length, seed=2) for length in (6, 9)}
    runs: dict[bool, list[Any]] = {}
    for is_made_there in (False, True):
        monkeypatch.setattr(taken, "_is_single_gpu", lambda world, answer=is_made_there: answer)
        model = small_model()
        arguments = (
            StagedBatches(stages, made),
            config,
            ALONE,
            StopRequest(),
            range(first, 24),
            lambda _: range(3),
        )
        steps = list(run_steps(model, fused(model), *arguments))
        runs[is_made_there] = [(s.result, s.learning_rate, s.length, s.tokens) for s in steps]
    assert len(runs[True]) == 24 - first
    assert runs[True] == runs[False]
    assert len(started) == recordings


def test_what_steps_on_batches_of_the_device_leave_out_is_the_same_after_a_resume(
    started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(steps=12, batch_size=3, validate_every=4, checkpoint_every=4)
    batches = SyntheticBatches("induction_heads", 9, seed=2)
    monkeypatch.setattr(taken, "_is_single_gpu", lambda world: True)
    told = []
    for cuts in ([12], [8, 12]):
        model = nn.Sequential(small_model(), nn.Dropout(0.5))
        optimizer, first = fused(model), 0
        for end in cuts:
            torch.rand(first + 1)  # a process that resumes has drawn other numbers before
            arguments = batches, config, ALONE, StopRequest(), range(first, 12), lambda _: range(3)
            steps = islice(run_steps(model, optimizer, *arguments), end - first)
            told += [str(step.result) for step in steps]
            first = end
    assert told[:12] == told[12:]


@needs_gpu
@pytest.mark.parametrize(
    "options",
    [{}, {"complex": True}, {"selective": False}, {"recompute": "block"}, {"recompute": "cheap"}],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_a_graph_gives_the_bits_of_ordinary_steps(options: dict[str, Any]) -> None:
    config = TrainingConfig(batch_size=3)
    batches = SyntheticBatches("selective_copying", 1100, seed=1)
    data = [Batch(*batches(step, range(3))).map(Tensor.cuda) for step in range(10)]
    results = []
    for is_captured in (False, True):
        model = small_model(GPU.device, **options)
        results.append(after(is_captured, model, adamw(model, config), data, config, GPU))
    assert_same(*results)


@needs_gpu
def test_a_gpu_makes_the_batches_of_the_cpu() -> None:
    for task in ("induction_heads", "selective_copying"):
        batches = SyntheticBatches(task, 100, seed=3)  # type: ignore[arg-type]
        made = batches.on_device(torch.tensor([5, 9], device="cuda"), range(2, 4))
        for index, step in enumerate((5, 9)):
            for ours, theirs in zip(made, batches(step, range(2, 4)), strict=True):
                assert torch.equal(ours[index].cpu(), theirs)


@needs_gpu
def test_a_run_of_graphs_is_a_run_of_steps_and_survives_a_stop(tmp_path: Path) -> None:
    """Made on the GPU many steps at once, made on the CPU, and stopped after 8 of 24 steps: the same."""
    config = TrainingConfig(steps=24, batch_size=3, validate_every=8, checkpoint_every=4, log_every=1)
    stages = [Stage(20, 3, 0, 10), Stage(40, 3, 10, 14)]
    made = {length: SyntheticBatches("induction_heads", length, seed=2) for length in (20, 40)}
    batches = StagedBatches(stages, made)

    def from_cpu(step: int, rows: range) -> tuple[Tensor, Tensor]:
        return batches(step, rows)

    def run(name: str, data: Any, resume: bool = False, **options: Any) -> list[Tensor]:
        model = small_model(GPU.device)
        train(model, data, config, RunFolder(tmp_path / name, {}, resume), GPU, stages=stages, **options)
        return [parameter.detach().clone() for parameter in model.parameters()]

    def stop(model: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 0.0}

    whole, other = run("device", batches), run("cpu", from_cpu)
    with pytest.raises(TrainingInterrupted):
        run("stopped", batches, validate=stop)
    resumed = run("stopped", batches, resume=True)
    for a, b, c in zip(whole, other, resumed, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
