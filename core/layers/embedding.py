"""The embedding of few symbols, with the same gradient to the bit every time.

Where many tokens share few symbols, torch's own gradient on a GPU adds them up in whatever order they arrive.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

MOST_SYMBOLS = 512
_ONES_AT_ONCE = 1 << 26  # elements of the matrix that tells which token is which symbol


def look_up(tokens: Tensor, weight: Tensor) -> Tensor:
    """The rows of weight (symbols, channels) that tokens (...) name: (..., channels)."""
    if weight.is_cuda and len(weight) <= MOST_SYMBOLS:
        return FewSymbols.apply(tokens, weight)
    return embedding(tokens, weight)


class FewSymbols(torch.autograd.Function):
    """The gradient is a matrix product, whose order of addition is fixed."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.symbols = len(weight)
        return embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (tokens,), (grad,) = ctx.saved_tensors, grads
        symbols = torch.arange(ctx.symbols, dtype=tokens.dtype, device=tokens.device)[:, None]
        count = max(1, _ONES_AT_ONCE // ctx.symbols)
        total = grad.new_zeros(ctx.symbols, grad.shape[-1])
        rows = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            for some_tokens, some_rows in zip(tokens.flatten().split(count), rows.split(count), strict=True):
                total.addmm_((symbols == some_tokens).to(grad.dtype), some_rows)
        return None, total
