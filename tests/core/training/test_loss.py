"""The summed loss equals PyTorch's cross entropy in fp32 over the targets."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from core.training import IGNORED, count_targets, cross_entropy_sum


def some(
    shape: tuple[int, ...], dtype: torch.dtype, vocabulary: int = 7
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = (3 * torch.randn(*shape, vocabulary)).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, shape)
    targets[torch.rand(shape) < 0.3] = IGNORED
    return logits, targets


@pytest.mark.parametrize("shape", [(3, 17), (1, 1), (4,), (2, 0), (5, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_loss_and_gradient_equal_summed_cross_entropy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits, targets = some(shape, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float64):
        loss = cross_entropy_sum(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    exact = logits.detach().double().requires_grad_()
    expected = cross_entropy(exact.flatten(0, -2), targets.flatten(), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, exact)

    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))
    assert count_targets(targets) == (targets >= 0).sum()


@pytest.mark.parametrize("integer", [torch.int8, torch.int16, torch.int32])
def test_targets_of_any_integer_dtype(integer: torch.dtype) -> None:
    logits, targets = some((3, 5), torch.float32)
    assert torch.equal(cross_entropy_sum(logits, targets.to(integer)), cross_entropy_sum(logits, targets))


def test_loss_and_gradient_are_zero_without_targets() -> None:
    logits, targets = some((2, 9), torch.float32)
    loss = cross_entropy_sum(logits, torch.full_like(targets, IGNORED))
    loss.backward()
    assert loss == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0.0).all()
