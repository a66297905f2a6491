"""What the backward pass computes again instead of keeping: time for memory, at a level that a config sets.

Bytes that a mixer keeps for each position and inner channel, under bf16 autocast with 16 states on a GPU:

    none   12   both halves of in_proj, the convolution's output, dt, y, and the scan's checkpoints (2 bytes)
    cheap   8   without the convolution's output and dt, which cost little to compute again
    block   0   nothing: the whole block runs again

Besides, a block keeps for each position and channel of the model its residual stream (4 bytes) and the norm
of it (2) at none, and else its input (2); core.layers.residual says why not the stream. The idea
is the paper's (Gu
and Dao 2023, section 3.3.2), a block at a time as Chen et al. 2016.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import kernels  # noqa: F401  (registers the operators)

LEVELS = ("none", "cheap", "block")


def check_level(level: str) -> None:
    """Raises ValueError for a level that there is not."""
    if level not in LEVELS:
        raise ValueError(f"recompute is {level}; it must be one of {', '.join(LEVELS)}.")


def recomputes(level: str) -> bool:
    """Whether anything will be computed again: nothing is at level none, or where no gradient is wanted."""
    return level != "none" and torch.is_grad_enabled()


def recomputed(level: str, function: Callable[..., Any], *inputs: Any) -> Any:
    """Call `function`; what it keeps for the backward pass is as the level says."""
    if not recomputes(level):
        return function(*inputs)
    contexts: dict[str, Any] = {"context_fn": _contexts} if level == "cheap" else {}
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts)


def _policy(_: Any, operator: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    if operator is torch.ops.helixwave.selective_scan.default or _is_dear_product(operator, arguments):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _is_dear_product(operator: Any, arguments: tuple[Any, ...]) -> bool:
    """All products but that from the low rank of dt, whose result is large and quick to make."""
    if operator is not torch.ops.aten.mm.default:
        return False
    inner, outer = arguments[1].shape
    return 4 * inner >= outer


_contexts = partial(create_selective_checkpoint_contexts, _policy)
