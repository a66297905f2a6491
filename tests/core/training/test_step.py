"""A step in pieces has the loss of whole sequences, the truncated gradient, and memory for one piece."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.model import SequenceModel, SequenceModelConfig
from core.training import TrainingConfig, count_targets, cross_entropy_sum
from core.training.step import autocast, training_step
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
    """Those of one training step on the same batch each time."""
    gradients = {}

    def keep(*_: object) -> None:
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradients[name] = parameter.grad.clone()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(keep)
    config = TrainingConfig(clip=1e9, **options)
    inputs, targets = toy_batches(0, range(ROWS), length=LENGTH)
    return training_step(model, optimizer, inputs, targets, config, ALONE).loss, gradients


def truncated_gradients(model: Any, piece: int) -> dict[str, Tensor]:
    """The definition: each piece's loss, in which the state that earlier positions left is a constant."""
    inputs, targets = toy_batches(0, range(ROWS), length=LENGTH)
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for start in range(0, LENGTH, piece):
        state = model.initial_state(ROWS)
        if start:
            with torch.no_grad():
                state = model(inputs[:, :start], state)[1]
        end = start + piece
        loss = cross_entropy_sum(model(inputs[:, start:end], state)[0], targets[:, start:end])
        gradients = torch.autograd.grad(loss / count_targets(targets), list(parameters.values()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("piece", [1, 7, 22])
@pytest.mark.parametrize("micro_tokens", [None, 14])
def test_pieces_give_the_whole_loss_and_the_truncated_gradient(
    name: str, piece: int, micro_tokens: int | None
) -> None:
    model = MODELS[name]()
    whole_loss, whole = loss_and_gradients(model)
    loss, gradients = loss_and_gradients(model, backpropagation_length=piece, micro_tokens=micro_tokens)
    assert loss == pytest.approx(whole_loss, abs=1e-5)
    expected = truncated_gradients(model, piece)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-6)
    assert not all(torch.allclose(gradients[key], whole[key], rtol=1e-3) for key in whole)


@pytest.mark.parametrize("piece", [LENGTH, LENGTH + 1, 10**6])
def test_a_single_piece_is_the_ordinary_step(piece: int) -> None:
    loss, gradients = loss_and_gradients(sequence_model())
    other_loss, other = loss_and_gradients(sequence_model(), backpropagation_length=piece)
    assert loss == other_loss
    assert all(torch.equal(gradients[name], other[name]) for name in gradients)


def test_pieces_in_bf16_are_near_those_in_fp32() -> None:
    loss, _ = loss_and_gradients(sequence_model(), backpropagation_length=5)
    rounded, gradients = loss_and_gradients(
        sequence_model(), backpropagation_length=5, precision="bf16", micro_tokens=10
    )
    assert autocast(TrainingConfig(precision="bf16"), CPU).fast_dtype == torch.bfloat16
    assert loss != rounded == pytest.approx(loss, rel=2e-2)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


class Held:
    """A tensor that a graph keeps for its backward pass; `bytes` counts all that are kept."""

    bytes = most = 0

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        Held.bytes += tensor.nbytes
        Held.most = max(Held.most, Held.bytes)

    def __del__(self) -> None:
        Held.bytes -= self.tensor.nbytes


def most_held(length: int, piece: int | None) -> int:
    """The most bytes that graphs keep at any time of a step on sequences of `length`."""
    model, (inputs, targets) = sequence_model(), toy_batches(0, range(2), length=length)
    Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        config = TrainingConfig(backpropagation_length=piece)
        training_step(model, torch.optim.SGD(model.parameters()), inputs, targets, config, ALONE)
    assert Held.bytes == 0
    return Held.most


def test_memory_is_flat_in_the_length() -> None:
    assert most_held(256, None) > 3 * most_held(64, None)
    assert most_held(256, 16) == most_held(64, 16) < most_held(64, None)
