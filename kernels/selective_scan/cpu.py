"""The selective scan on the CPU: for now by its definition."""

from typing import Any

import torch
from torch import Tensor

from kernels.selective_scan import reference

CHUNK = 32


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, _, A, *_ = arguments
    y, final_state = reference.selective_scan(*arguments)
    return y, final_state, A.new_zeros(x.shape[0], -(-x.shape[1] // CHUNK), *A.shape)


def backward(grad_y: Tensor, grad_final_state: Tensor | None, *arguments: Any) -> list[Tensor | None]:
    leaves = [
        argument.detach().requires_grad_() if isinstance(argument, Tensor) and index != 10 else argument
        for index, argument in enumerate(arguments[:-1])
    ]
    inputs = [*leaves[:8], leaves[9]]
    with torch.enable_grad():
        y, final_state = reference.selective_scan(*leaves)
        total = (y * grad_y).sum()
        if grad_final_state is not None:
            total = total + (final_state * grad_final_state.conj()).real.sum()
        gradients = iter(torch.autograd.grad(total, [leaf for leaf in inputs if leaf is not None]))
    return [None if leaf is None else next(gradients) for leaf in inputs]


def step(state: Tensor, *arguments: Any) -> Tensor:
    return reference.selective_scan_step(state, *arguments)
