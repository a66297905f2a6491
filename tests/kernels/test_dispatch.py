"""The shortcuts of operators give the results of the dispatcher."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import causal_conv1d, rms_norm, selective_scan


def scan(x: Tensor) -> Tensor:
    ones = torch.ones(x.shape[-1], 4)
    return selective_scan(x, x, -ones, x[..., :4], x[..., :4], z=x, dt_softplus=True)


def conv(x: Tensor) -> Tensor:
    return causal_conv1d(x, torch.ones(x.shape[-1], 3), activation="silu")


def norm(x: Tensor) -> Tensor:
    return rms_norm(x, torch.ones(x.shape[-1]), x)[0]


OPERATORS = pytest.mark.parametrize("operator", [scan, conv, norm])


class OperatorLog(TorchDispatchMode):
    """Record the operators that pass through the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        self.names.append(function.name())
        return function(*arguments, **(keywords or {}))


@OPERATORS
def test_shortcut_equals_dispatcher(operator: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    weight = torch.randn(2, 5, 8)
    y = operator(x)
    (gradient,) = torch.autograd.grad(y, x, weight)
    with OperatorLog() as log:
        y_dispatched = operator(x)
        (gradient_dispatched,) = torch.autograd.grad(y_dispatched, x, weight)
    assert len([name for name in log.names if name.startswith("helixwave::")]) == 2
    assert torch.equal(y, y_dispatched)
    assert torch.equal(gradient, gradient_dispatched)


@OPERATORS
def test_no_grad_keeps_no_graph(operator: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    with torch.no_grad():
        y = operator(x)
    assert y.grad_fn is None
    assert torch.equal(y, operator(x))


@OPERATORS
def test_second_derivative_raises(operator: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(operator(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        gradient.sum().backward()
