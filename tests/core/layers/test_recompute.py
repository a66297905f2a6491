"""Recomputation: bit-identical gradients, and less memory, in chains with several stored streams."""

import gc

import pytest
import torch
from torch import Tensor

from core.layers.recompute import STORE_EVERY, BlockRunner
from core.models.sequence import SequenceModel, SequenceModelConfig

DEPTHS = [1, 2, STORE_EVERY, STORE_EVERY + 1, 2 * STORE_EVERY + 2]
SHAPE = (2, 5, 3)


def gradients_of(level: str, n_layer: int, dtype: torch.dtype | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = SequenceModel(SequenceModelConfig(12, 8, n_layer, d_state=2, recompute=level))
    tokens = torch.randint(12, (2, 9))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits, state = model(tokens[:, :4], model.initial_state(2))
        more, _ = model(tokens[:, 4:], state)
    return list(torch.autograd.grad((logits.square().sum() + more.sum()), list(model.parameters())))


@pytest.mark.parametrize("level", ["cheap", "block"])
@pytest.mark.parametrize("n_layer", DEPTHS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_are_those_without_recomputation(
    level: str, n_layer: int, dtype: torch.dtype | None
) -> None:
    assert all(map(torch.equal, gradients_of(level, n_layer, dtype), gradients_of("none", n_layer, dtype)))


def add(hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    total = hidden if residual is None else hidden + residual
    return total.sin() * total, total


def add_and_record(
    hidden: Tensor, residual: Tensor | None, seen: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    seen.append(None if residual is None else residual.detach().clone())
    return add(hidden, residual)


@pytest.mark.parametrize("count", DEPTHS)
@pytest.mark.parametrize(("store_every", "skip"), [(STORE_EVERY, 0.0), (1, 0.0), (1, 0.5)])
@pytest.mark.parametrize("has_residual", [False, True])
def test_a_block_reads_the_same_stream_again(
    count: int, store_every: int, skip: float, has_residual: bool
) -> None:
    """With every stream stored, anything may be added to it between the blocks."""
    run, seen = BlockRunner("block", store_every), [[] for _ in range(count)]  # type: ignore[var-annotated]
    hidden = torch.randn(SHAPE, requires_grad=True)
    residual = torch.randn(SHAPE, requires_grad=True) if has_residual else None
    for block in range(count):
        hidden, residual = run(add_and_record, hidden, residual, seen[block])
        residual = residual + skip if skip else residual
    (hidden.sum() + residual.sum()).backward()
    if not has_residual:
        assert seen.pop(0) == [None, None]
    for first, second in seen:
        assert torch.equal(first, second)


def alive() -> int:
    """Return the number of live tensors of SHAPE with different memory."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.shape == SHAPE})


@pytest.mark.parametrize(("store_every", "streams"), [(STORE_EVERY, 2), (1, 2 * STORE_EVERY)])
def test_one_stream_in_store_every_is_stored(store_every: int, streams: int) -> None:
    """The other streams are freed after the block that reads them."""
    run, count = BlockRunner("block", store_every), 2 * STORE_EVERY + 1
    hidden, residual, before = torch.randn(SHAPE, requires_grad=True), None, alive()
    for _ in range(count):
        hidden, residual = run(add, hidden, residual)
    stored = alive() - before
    assert stored <= count + 2 + streams  # inputs and outputs of the blocks, streams, and the last stream


def test_without_gradients_nothing_is_stored() -> None:
    run = BlockRunner("block")
    with torch.no_grad():
        hidden, residual, before = torch.randn(SHAPE), None, alive()
        for _ in range(5):
            hidden, residual = run(add, hidden, residual)
    assert alive() - before <= 3
