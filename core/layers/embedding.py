"""Embedding of tokens from a small vocabulary, with a deterministic gradient.

If many tokens share few symbols, torch's own gradient on a GPU adds them in the order in which they arrive.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

MAX_SYMBOLS = 512
_ONE_HOT_ELEMENTS = 1 << 26  # elements of the one-hot matrix that exists at one time


class TokenEmbedding(nn.Embedding):
    """An nn.Embedding whose gradient is bit-identical every time, up to MAX_SYMBOLS symbols on a GPU."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows of the tokens: (...) integers -> (..., channels)."""
        return look_up(tokens.int(), self.weight)


def embed(table: TokenEmbedding, tokens: Tensor, axes: str) -> Tensor:
    """Return the embeddings (*axes, d_model) of tokens of any integer dtype.

    axes: names of the axes that the tokens must have, "batch" or "batch, length".
    Raises ValueError for other axes, and for tokens that are not integers.
    """
    if tokens.dim() != len(axes.split(", ")):
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}; it must be ({axes}).")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens are {tokens.dtype}; they must be integers.")
    return table(tokens)


def pad_vocabulary(vocab_size: int) -> int:
    """Return the number of rows of an embedding: the next multiple of 8, as matrix units need."""
    return math.ceil(vocab_size / 8) * 8


def look_up(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of weight (symbols, channels) at tokens (...): (..., channels)."""
    if weight.is_cuda and len(weight) <= MAX_SYMBOLS:
        return FewSymbols.apply(tokens, weight)
    return embedding(tokens, weight)


class FewSymbols(torch.autograd.Function):
    """An embedding whose gradient is a matrix product, which adds in a fixed order."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.symbols = len(weight)
        return embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (tokens,), (grad,) = ctx.saved_tensors, grads
        symbols = torch.arange(ctx.symbols, dtype=tokens.dtype, device=tokens.device)[:, None]
        count = max(1, _ONE_HOT_ELEMENTS // ctx.symbols)
        total = grad.new_zeros(ctx.symbols, grad.shape[-1])
        rows = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            for chunk_tokens, chunk_rows in zip(
                tokens.flatten().split(count), rows.split(count), strict=True
            ):
                total.addmm_((symbols == chunk_tokens).to(grad.dtype), chunk_rows)
        return None, total
