"""Chains longer than what parts two kept sums: the same gradients to the bit, and less that is kept."""

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
def test_a_block_reads_the_same_stream_again(count: int) -> None:
    run, seen = BlockRunner("block"), [[] for _ in range(count)]  # type: ignore[var-annotated]
    hidden, residual = torch.randn(SHAPE, requires_grad=True), None
    for block in range(count):
        hidden, residual = run(add_and_record, hidden, residual, seen[block])
    (hidden.sum() + residual.sum()).backward()
    assert seen[0] == [None, None]
    for first, second in seen[1:]:
        assert torch.equal(first, second)


def alive() -> int:
    """How many tensors of SHAPE there are, of different memory."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.shape == SHAPE})


def test_one_sum_in_so_many_is_kept() -> None:
    """The streams that nobody else keeps vanish with the block that reads them."""
    run, count = BlockRunner("block"), 2 * STORE_EVERY + 1
    hidden, residual, before = torch.randn(SHAPE, requires_grad=True), None, alive()
    for _ in range(count):
        hidden, residual = run(add, hidden, residual)
    kept = alive() - before
    assert kept <= count + 2 + 2  # what each block reads or gives, two sums, and the last stream


def test_without_gradients_nothing_is_kept() -> None:
    run = BlockRunner("block")
    with torch.no_grad():
        hidden, residual, before = torch.randn(SHAPE), None, alive()
        for _ in range(5):
            hidden, residual = run(add, hidden, residual)
    assert alive() - before <= 3
