"""Captured steps equal eager ones, skipped or not; without a GPU, all but the capture is tested."""

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
    cuda_graph,
    train,
)
from core.training import steps as steps_module
from core.training.cuda_graph import WARM_UP, CapturedStep, CapturedSteps, step_without_sync
from core.training.optimizer import adamw, set_learning_rate
from core.training.step import training_step
from core.training.steps import run_steps
from core.training.stopping import StopRequest
from tests.core.training.toy import ALONE, CPU, POISON, ToyModel, toy_batches

GPU = World(0, 1, torch.device("cuda", 0))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace graphs by plain functions without a GPU; the list counts captures."""
    captures: list[int] = []

    def eager_replay(work: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)
        return work

    monkeypatch.setattr(cuda_graph, "capture", eager_replay)
    monkeypatch.setattr(cuda_graph, "_is_small", lambda device: True)
    return captures


def fused(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer that can skip a step on the device, as on a GPU."""
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2), fused=True)


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.clone() for tensor in (*model.parameters(), *moments)]


def run_eager_or_captured(
    is_captured: bool,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    config: TrainingConfig,
    world: World,
) -> tuple[list[str], list[Tensor]]:
    """Return the result of each step (as text, since nan != nan) and the final tensors."""
    captured_step = CapturedStep(model, optimizer, config, world)
    results = []
    for index, batch in enumerate(batches):
        set_learning_rate(optimizer, 1e-2 / (1 + index))
        if is_captured:
            results.append(str(captured_step(batch, False)))
        else:
            results.append(str(training_step(model, optimizer, batch, config, world)))
    return results, tensors_of(model, optimizer)


def assert_same(one: tuple[list[str], list[Tensor]], other: tuple[list[str], list[Tensor]]) -> None:
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def compare_with_eager(length: int | None, poisoned: tuple[int, ...], **options: Any) -> list[str]:
    """Run the same steps eagerly and captured, compare their bits and return the results."""
    config = TrainingConfig(**options)
    batches = [Batch(*toy_batches(step, range(4), poisoned, length)) for step in range(9)]
    runs = []
    for is_captured in (False, True):
        model = ToyModel()
        runs.append(run_eager_or_captured(is_captured, model, fused(model), batches, config, ALONE))
    assert_same(*runs)
    return runs[0][0]


@pytest.mark.parametrize("options", [{}, {"clip": 1e-3}, {"micro_tokens": 10}, {"backpropagation_length": 4}])
def test_captured_step_equals_the_eager_step(captures: list[int], options: dict[str, Any]) -> None:
    compare_with_eager(9, (), **options)
    assert len(captures) == 1


def test_non_finite_step_is_skipped(captures: list[int]) -> None:
    results = compare_with_eager(9, (1, WARM_UP + 1, WARM_UP + 3))
    assert ["nan" in text for text in results] == [step in (1, 4, 6) for step in range(9)]


def test_no_capture_before_the_optimizer_has_moments(captures: list[int]) -> None:
    model = ToyModel()
    optimizer = fused(model)
    step = CapturedStep(model, optimizer, TrainingConfig(), ALONE)
    poisoned = range(WARM_UP + 1)
    for number in range(2 * WARM_UP + 2):
        step(Batch(*toy_batches(number, range(4), tuple(poisoned), 5)), False)
        assert bool(optimizer.state) == (number not in poisoned)
        assert len(captures) == (number > 2 * WARM_UP)


def test_no_capture_while_shapes_change(captures: list[int]) -> None:
    compare_with_eager(None, ())  # lengths 5, 6, 7, 5, ...
    assert not captures


def test_new_shape_is_captured_again(captures: list[int]) -> None:
    model = ToyModel()
    step = CapturedStep(model, fused(model), TrainingConfig(), ALONE)
    for length in (5, 8):
        for number in range(WARM_UP + 2):
            step(Batch(*toy_batches(number, range(4), length=length)), False)
    assert len(captures) == 2


def test_large_step_stays_eager(captures: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "_is_small", lambda device: False)
    compare_with_eager(9, ())
    assert not captures


def test_stop_request_is_passed_on(captures: list[int]) -> None:
    model = ToyModel()
    step = CapturedStep(model, fused(model), TrainingConfig(), ALONE)
    batch = Batch(*toy_batches(0, range(4), length=5))
    results = [step(batch, stop_requested) for stop_requested in (False, True) * 3]
    assert [result.stop_requested for result in results] == [False, True] * 3


def small_model(device: torch.device = CPU, **options: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(vocab_size=16, d_model=16, n_layer=2, **options)).to(device)


def test_graph_of_steps_equals_single_steps(captures: list[int]) -> None:
    config, batches = TrainingConfig(batch_size=3), SyntheticBatches("induction_heads", 12, seed=1)
    rates = [1e-2 / (1 + step) for step in range(9)]
    one, other = small_model(), small_model()
    one_optimizer, other_optimizer = fused(one), fused(other)
    results = []
    for step, rate in enumerate(rates):
        set_learning_rate(one_optimizer, rate)
        results.append(training_step(one, one_optimizer, Batch(*batches(step, range(3))), config, ALONE))
    three = CapturedSteps(other, other_optimizer, batches, range(3), config, ALONE, count=3)
    assert [result for first in (0, 3, 6) for result in three(first, rates[first : first + 3])] == results
    assert (three.length, three.tokens, len(captures)) == (12, 36, 1)
    for a, b in zip(tensors_of(one, one_optimizer), tensors_of(other, other_optimizer), strict=True):
        assert torch.equal(a, b)
    set_learning_rate(other_optimizer, 0.5)
    assert other_optimizer.param_groups[0]["lr"].item() == 0.5


def test_skipped_step_keeps_moments_and_count(captures: list[int]) -> None:
    model = ToyModel()
    optimizer = fused(model)
    batch = Batch(*toy_batches(0, range(4), length=5))
    step_without_sync(model, optimizer, batch, TrainingConfig(), ALONE)
    before = tensors_of(model, optimizer)
    poisoned = batch._replace(inputs=torch.full_like(batch.inputs, POISON))
    stats = step_without_sync(model, optimizer, poisoned, TrainingConfig(), ALONE)
    assert not stats.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(model, optimizer), strict=True))
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize(("first", "expected_captures"), [(0, 4), (3, 3), (12, 1)])
def test_device_batches_equal_cpu_batches(
    first: int, expected_captures: int, captures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run stages from the first or a later step; 4 steps of the first stage run one by one."""
    config = TrainingConfig(steps=24, batch_size=3, validate_every=8, checkpoint_every=4)
    stages = [Stage(6, 3, 0, 10), Stage(9, 3, 10, 14)]
    by_length = {length: SyntheticBatches("induction_heads", length, seed=2) for length in (6, 9)}
    runs: dict[bool, list[Any]] = {}
    for is_on_device in (False, True):
        monkeypatch.setattr(steps_module, "_is_single_gpu", lambda world, answer=is_on_device: answer)
        model = small_model()
        arguments = (
            StagedBatches(stages, by_length),
            config,
            ALONE,
            StopRequest(),
            range(first, 24),
            lambda _: range(3),
        )
        steps = list(run_steps(model, fused(model), *arguments))
        runs[is_on_device] = [(s.result, s.learning_rate, s.length, s.tokens) for s in steps]
    assert len(runs[True]) == 24 - first
    assert runs[True] == runs[False]
    assert len(captures) == expected_captures


def test_dropout_on_device_batches_survives_a_resume(
    captures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(steps=12, batch_size=3, validate_every=4, checkpoint_every=4)
    batches = SyntheticBatches("induction_heads", 9, seed=2)
    monkeypatch.setattr(steps_module, "_is_single_gpu", lambda world: True)
    results = []
    for cuts in ([12], [8, 12]):
        model = nn.Sequential(small_model(), nn.Dropout(0.5))
        optimizer, first = fused(model), 0
        for end in cuts:
            torch.rand(first + 1)  # a process that resumes has drawn other numbers before
            arguments = batches, config, ALONE, StopRequest(), range(first, 12), lambda _: range(3)
            steps = islice(run_steps(model, optimizer, *arguments), end - first)
            results += [str(step.result) for step in steps]
            first = end
    assert results[:12] == results[12:]


@needs_gpu
@pytest.mark.parametrize(
    "options",
    [{}, {"complex": True}, {"selective": False}, {"recompute": "block"}, {"recompute": "cheap"}],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_graph_gives_the_bits_of_eager_steps(options: dict[str, Any]) -> None:
    config = TrainingConfig(batch_size=3)
    batches = SyntheticBatches("selective_copying", 1100, seed=1)
    data = [Batch(*batches(step, range(3))).map(Tensor.cuda) for step in range(10)]
    results = []
    for is_captured in (False, True):
        model = small_model(GPU.device, **options)
        results.append(run_eager_or_captured(is_captured, model, adamw(model, config), data, config, GPU))
    assert_same(*results)


@needs_gpu
def test_gpu_generates_the_batches_of_the_cpu() -> None:
    for task in ("induction_heads", "selective_copying"):
        batches = SyntheticBatches(task, 100, seed=3)  # type: ignore[arg-type]
        tensors = batches.on_device(torch.tensor([5, 9], device="cuda"), range(2, 4))
        for index, step in enumerate((5, 9)):
            for ours, theirs in zip(tensors, batches(step, range(2, 4)), strict=True):
                assert torch.equal(ours[index].cpu(), theirs)


@needs_gpu
def test_run_of_graphs_equals_run_of_steps_and_resumes(tmp_path: Path) -> None:
    """Compare batches from the GPU, from the CPU, and a run stopped after 8 of 24 steps."""
    config = TrainingConfig(steps=24, batch_size=3, validate_every=8, checkpoint_every=4, log_every=1)
    stages = [Stage(20, 3, 0, 10), Stage(40, 3, 10, 14)]
    by_length = {length: SyntheticBatches("induction_heads", length, seed=2) for length in (20, 40)}
    batches = StagedBatches(stages, by_length)

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
