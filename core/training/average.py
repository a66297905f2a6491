"""An exponential moving average of a model's parameters, to be validated and used in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterAverage:
    """`tensors` maps each parameter's name to its average, which starts at the parameter's value.

    An update is: average <- decay * average + (1 - decay) * parameter.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1.0 - self.decay)

    @contextmanager
    def in_place_of_parameters(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with the averages inside the block."""
        own = {name: parameter.data for name, parameter in model.named_parameters()}
        try:
            for name, parameter in model.named_parameters():
                parameter.data = self.tensors[name]
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.data = own[name]
