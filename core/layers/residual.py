"""Blocks in a row that are computed again in the backward pass, and what is kept of their residual stream.

What a block reads of the stream is the sum of what the blocks before it gave. Kept in fp32 before every block
it would take twice the memory of the addends, and those are kept anyway, being the inputs of the blocks. So
the sum is kept before one block in KEPT_EVERY, and made again from there for the others, added up in the same
order: to the same bits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.layers.recompute import recomputed, recomputes

KEPT_EVERY = 8
"""Of so many blocks one keeps its sum; the others make theirs by half as many additions, on average."""


class RecomputedBlocks:
    """Calls the blocks of a chain in order; what they keep for the backward pass is as the level says."""

    def __init__(self, level: str) -> None:
        self._level = level
        self._start: Tensor | None = None
        self._addends: list[Tensor] = []

    def __call__(
        self, block: Callable[..., Any], hidden: Tensor, residual: Tensor | None, *rest: Any
    ) -> tuple[Any, ...]:
        """block(hidden, residual, *rest), whose outputs begin with the next block's hidden and residual.

        hidden, residual: (batch, length, d_model); residual is None before the first block.
        """
        if not recomputes(self._level):
            return block(hidden, residual, *rest)
        stream = self._stream_before(hidden, residual)
        outputs: tuple[Any, ...] = recomputed(self._level, _run, block, hidden, stream, *rest)
        stream.tensor = None
        return outputs

    def _stream_before(self, hidden: Tensor, residual: Tensor | None) -> "_Stream":
        if residual is not None and len(self._addends) == KEPT_EVERY:
            self._start, self._addends = residual.detach(), []
        stream = _Stream(residual, self._start, tuple(self._addends))
        self._addends.append(hidden.detach())
        return stream


class _Stream:
    """The residual stream before a block.

    tensor: itself, until the block has run; None before the first block, and afterwards.
    It is the sum of `start`, if there is one, and of `addends`.
    """

    def __init__(self, tensor: Tensor | None, start: Tensor | None, addends: tuple[Tensor, ...]) -> None:
        self.tensor = tensor
        self._start = start
        self._addends = addends
        self._dtype = None if tensor is None else tensor.dtype
        self._requires_grad = tensor is not None and tensor.requires_grad

    def value(self) -> Tensor | None:
        """The stream, as it was when the block ran."""
        if self.tensor is not None or self._dtype is None:
            return self.tensor
        if not self._addends:
            assert self._start is not None
            return self._start.detach().requires_grad_(self._requires_grad)
        first, *others = self._addends if self._start is None else (self._start, *self._addends)
        with torch.no_grad():
            total = first.to(self._dtype, copy=True)
            for addend in others:
                total += addend
        return total.requires_grad_(self._requires_grad)


def _run(block: Callable[..., Any], hidden: Tensor, stream: _Stream, *rest: Any) -> Any:
    return block(hidden, stream.value(), *rest)
