"""Recomputation of blocks in the backward pass, at a level that a config sets: time for memory.

Bytes that a mixer keeps per position and inner channel, under bf16 autocast with 16 states on a GPU:

    none   12   both halves of in_proj, the convolution's output, dt, y, and the scan's checkpoints (2 bytes)
    cheap   8   all but the convolution's output and dt, which are cheap to recompute
    block   0   nothing: the whole block runs again

A block also keeps, per position and channel of the model, its residual stream (4 bytes) and the norm of it
(2) at level none, and its input (2) at the other levels.

The residual stream before a block is the sum of the outputs of all blocks before it. These outputs are the
inputs of the blocks, which are kept anyway, in half the bytes. A runner therefore stores the stream before
one block in STORE_EVERY, and adds it up again for the others, in the same order, with bit-identical results.

The idea is the paper's (Gu and Dao 2023, section 3.3.2), a block at a time as in Chen et al. 2016.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import kernels  # noqa: F401  (registers the operators)

LEVELS = ("none", "cheap", "block")
RECOMPUTE_HELP = (
    "activations that the backward pass recomputes to save memory: none, cheap (convolution and dt) or block "
    "(all of a block)"
)
STORE_EVERY = 8
"""Blocks per stored residual stream; a block makes its stream with half as many additions on average."""


def check_level(level: str) -> None:
    """Raise ValueError for an unknown level."""
    if level not in LEVELS:
        raise ValueError(f"recompute is {level}; it must be one of {', '.join(LEVELS)}.")


class BlockRunner:
    """Call the blocks of a chain in order, and keep for the backward pass what the level says.

    store_every: number of blocks per stored residual stream. It is 1 for a chain that adds anything else to
        the stream between its blocks.
    """

    def __init__(self, level: str, store_every: int = STORE_EVERY) -> None:
        self._level = level
        self._store_every = store_every
        self._start: Tensor | None = None
        self._addends: list[Tensor] = []

    def __call__(
        self, block: Callable[..., Any], hidden: Tensor, residual: Tensor | None, *rest: Any
    ) -> tuple[Any, ...]:
        """Return block(hidden, residual, *rest), which begins with the next block's hidden and residual.

        hidden, residual: (batch, length, d_model); residual is None before the first block.
        """
        if self._level == "none" or not torch.is_grad_enabled():
            return block(hidden, residual, *rest)
        stream = self._stream_before(hidden, residual)
        contexts: dict[str, Any] = {"context_fn": _contexts} if self._level == "cheap" else {}
        outputs: tuple[Any, ...] = checkpoint(
            _run, block, hidden, stream, *rest, use_reentrant=False, preserve_rng_state=False, **contexts
        )
        stream.tensor = None
        return outputs

    def _stream_before(self, hidden: Tensor, residual: Tensor | None) -> "_Stream":
        is_first = self._start is None and not self._addends
        if residual is not None and (is_first or len(self._addends) == self._store_every):
            self._start, self._addends = residual.detach(), []
        stream = _Stream(residual, self._start, tuple(self._addends))
        self._addends.append(hidden.detach())
        return stream


class _Stream:
    """The residual stream before a block: the sum of `start`, if there is one, and of `addends`.

    tensor: the stream until the block has run, then None; also None before the first block.
    """

    def __init__(self, tensor: Tensor | None, start: Tensor | None, addends: tuple[Tensor, ...]) -> None:
        self.tensor = tensor
        self._start = start
        self._addends = addends
        self._dtype = None if tensor is None else tensor.dtype
        self._requires_grad = tensor is not None and tensor.requires_grad

    def value(self) -> Tensor | None:
        """Return the stream as it was when the block ran."""
        if self.tensor is not None or self._dtype is None:
            return self.tensor
        if self._start is not None and not self._addends:
            return self._start.detach().requires_grad_(self._requires_grad)
        first, *others = self._addends if self._start is None else (self._start, *self._addends)
        with torch.no_grad():
            total = first.to(self._dtype, copy=True)
            for addend in others:
                total += addend
        return total.requires_grad_(self._requires_grad)


def _run(block: Callable[..., Any], hidden: Tensor, stream: _Stream, *rest: Any) -> Any:
    return block(hidden, stream.value(), *rest)


def _policy(_: Any, operator: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    if operator is torch.ops.helixwave.selective_scan.default or _is_costly_product(operator, arguments):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _is_costly_product(operator: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether an operator is a matrix product other than dt's, whose large result is cheap."""
    if operator is not torch.ops.aten.mm.default:
        return False
    inner, outer = arguments[1].shape
    return 4 * inner >= outer


_contexts = partial(create_selective_checkpoint_contexts, _policy)
