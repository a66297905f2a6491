"""A step in segments has the loss of whole sequences, the truncated gradient and memory of one segment.

A step on packed sequences is that on the same sequences padded, in however many parts it runs.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import Batch, TrainingConfig, count_targets, cross_entropy_sum
from core.training.batches import micro_batches
from core.training.step import autocast, clipped_gradients, training_step
from tests.core.training.toy import ALONE, CPU, ToyModel, toy_batches

LENGTH, ROWS = 23, 5


def sequence_model(**options: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(**({"vocab_size": 8, "d_model": 16, "n_layer": 2} | options)))


MODELS = {
    "toy": ToyModel,
    "real": sequence_model,
    "complex": lambda: sequence_model(complex=True),
    "recomputed": lambda: sequence_model(recompute="block"),
    "cheaply recomputed": lambda: sequence_model(recompute="cheap"),
}


def loss_and_gradients(model: nn.Module, **options: Any) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of one training step on a fixed batch."""
    gradients = {}

    def keep(*_: object) -> None:
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradients[name] = parameter.grad.clone()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(keep)
    config = TrainingConfig(clip=1e9, **options)
    inputs, targets = toy_batches(0, range(ROWS), length=LENGTH)
    return training_step(model, optimizer, Batch(inputs, targets), config, ALONE).loss, gradients


def truncated_gradients(model: Any, segment: int) -> dict[str, Tensor]:
    """Compute gradients by the definition: the state at the start of a segment is a constant."""
    inputs, targets = toy_batches(0, range(ROWS), length=LENGTH)
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for start in range(0, LENGTH, segment):
        state = model.initial_state(ROWS)
        if start:
            with torch.no_grad():
                state = model(inputs[:, :start], state)[1]
        end = start + segment
        loss = cross_entropy_sum(model(inputs[:, start:end], state)[0], targets[:, start:end])
        gradients = torch.autograd.grad(loss / count_targets(targets), list(parameters.values()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("segment", [1, 7, 22])
@pytest.mark.parametrize("micro_tokens", [None, 14])
def test_segments_give_the_whole_loss_and_the_truncated_gradient(
    name: str, segment: int, micro_tokens: int | None
) -> None:
    model = MODELS[name]()
    whole_loss, whole = loss_and_gradients(model)
    loss, gradients = loss_and_gradients(model, backpropagation_length=segment, micro_tokens=micro_tokens)
    assert loss == pytest.approx(whole_loss, abs=1e-5)
    expected = truncated_gradients(model, segment)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-6)
    assert not all(torch.allclose(gradients[key], whole[key], rtol=1e-3) for key in whole)


@pytest.mark.parametrize("segment", [LENGTH, LENGTH + 1, 10**6])
def test_single_segment_equals_the_ordinary_step(segment: int) -> None:
    loss, gradients = loss_and_gradients(sequence_model())
    other_loss, other = loss_and_gradients(sequence_model(), backpropagation_length=segment)
    assert loss == other_loss
    assert all(torch.equal(gradients[name], other[name]) for name in gradients)


def test_segments_in_bf16_are_close_to_fp32() -> None:
    loss, _ = loss_and_gradients(sequence_model(), backpropagation_length=5)
    rounded, gradients = loss_and_gradients(
        sequence_model(), backpropagation_length=5, precision="bf16", micro_tokens=10
    )
    assert autocast(TrainingConfig(precision="bf16"), CPU).fast_dtype == torch.bfloat16
    assert loss != rounded == pytest.approx(loss, rel=2e-2)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


class SavedTensor:
    """Tensor saved for a backward pass; `bytes` counts all saved ones."""

    bytes = most = 0

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        SavedTensor.bytes += tensor.nbytes
        SavedTensor.most = max(SavedTensor.most, SavedTensor.bytes)

    def __del__(self) -> None:
        SavedTensor.bytes -= self.tensor.nbytes


def peak_saved_bytes(length: int, segment: int | None) -> int:
    """Return the peak of saved bytes in a step on sequences of `length`."""
    model, (inputs, targets) = sequence_model(), toy_batches(0, range(2), length=length)
    SavedTensor.most = 0
    with torch.autograd.graph.saved_tensors_hooks(SavedTensor, lambda saved: saved.tensor):
        config = TrainingConfig(backpropagation_length=segment)
        training_step(model, torch.optim.SGD(model.parameters()), Batch(inputs, targets), config, ALONE)
    assert SavedTensor.bytes == 0
    return SavedTensor.most


def test_memory_does_not_grow_with_the_length() -> None:
    assert peak_saved_bytes(256, None) > 3 * peak_saved_bytes(64, None)
    assert peak_saved_bytes(256, 16) == peak_saved_bytes(64, 16) < peak_saved_bytes(64, None)


def padded_and_packed() -> tuple[Batch, Batch]:
    """Return the same sequences of 3 to 9 tokens as padded rows and packed in one row."""
    torch.manual_seed(1)
    sequences = [torch.randint(8, (2, length)) for length in (5, 9, 3, 7)]
    rows = [nn.functional.pad(both, (0, 9 - both.shape[1]), value=-100) for both in sequences]
    inputs, targets = torch.stack(rows, dim=1)
    bounds = torch.tensor([0, 5, 14, 17, 24], dtype=torch.int32)
    return Batch(inputs.clamp(min=0), targets), Batch(*torch.cat(sequences, dim=1)[:, None], bounds)


@pytest.mark.parametrize("tokens", [None, 1, 8, 14, 100])
def test_packed_sequences_equal_padded_ones(tokens: int | None) -> None:
    losses, gradients = [], []
    for batch in padded_and_packed():
        model = sequence_model()
        config = TrainingConfig(micro_tokens=tokens, backpropagation_length=None if tokens else 100)
        stats = clipped_gradients(model, batch, config, ALONE)
        losses.append(stats[0].item())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "sizes"), [(None, [24]), (1, [5, 9, 3, 7]), (14, [14, 10]), (23, [17, 7])]
)
def test_packed_batches_are_split_between_sequences(tokens: int | None, sizes: list[int]) -> None:
    _, packed = padded_and_packed()
    parts = list(micro_batches(packed, 24, tokens))
    assert [part.inputs.shape for part in parts] == [(1, size) for size in sizes]
    assert [int(part.cu_seqlens[-1]) for part in parts] == sizes
    assert all(part.cu_seqlens[0] == 0 for part in parts)
    assert torch.equal(torch.cat([part.targets for part in parts], dim=1), packed.targets)
