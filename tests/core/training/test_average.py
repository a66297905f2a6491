"""The moving average follows the parameters and replaces them temporarily."""

import pytest
import torch

from core.training.average import ParameterAverage
from tests.core.training.toy import ToyModel


def test_average_follows_its_recurrence() -> None:
    model = ToyModel()
    average = ParameterAverage(model, decay=0.75)
    first = model.norm.bias.detach().clone()
    with torch.no_grad():
        model.norm.bias.add_(4.0)
    average.update(model)
    torch.testing.assert_close(average.tensors["norm.bias"], first + 1.0)
    assert average.tensors.keys() == dict(model.named_parameters()).keys()


def test_average_replaces_parameters_inside_the_block_only() -> None:
    model, tokens = ToyModel(), torch.tensor([[1, 2, 3]])
    average, own = ParameterAverage(model, decay=0.5), model(tokens)
    for tensor in average.tensors.values():
        tensor.zero_()

    def fail_in_place_of_parameters() -> None:
        with average.in_place_of_parameters(model):
            assert (model(tokens) == 0).all()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_in_place_of_parameters()
    assert torch.equal(model(tokens), own)
