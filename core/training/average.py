"""Exponential moving average of the parameters, validated and used in place of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterAverage:
    """Moving average of every parameter, by name in `tensors`; it starts at the parameters.

    An update is average <- decay * average + (1 - decay) * parameter.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the parameters."""
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1.0 - self.decay)

    @contextmanager
    def in_place_of_parameters(self, model: nn.Module) -> Iterator[None]:
        """Replace the parameters by their averages inside the block."""
        own = {name: parameter.data for name, parameter in model.named_parameters()}
        try:
            for name, parameter in model.named_parameters():
                parameter.data = self.tensors[name]
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.data = own[name]
