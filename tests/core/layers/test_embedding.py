"""Embedding of few symbols: torch's gradient, and on a GPU the same bits every time."""

import pytest
import torch
from torch.nn.functional import embedding

from core.layers import embedding as module
from core.layers.embedding import FewSymbols, look_up


@pytest.mark.parametrize("shape", [(3, 50), (7,), (0,), (1, 1)])
@pytest.mark.parametrize("elements", [1 << 26, 40])
def test_rows_and_gradient_are_those_of_torch(
    shape: tuple[int, ...], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ONE_HOT_ELEMENTS", elements)
    torch.manual_seed(0)
    tokens = torch.randint(6, shape, dtype=torch.int32)  # two of the eight symbols have no token
    weight = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(*shape, 5, dtype=torch.float64)
    theirs, ours = embedding(tokens, weight), FewSymbols.apply(tokens, weight)
    assert torch.equal(ours, theirs)
    expected, gradient = (torch.autograd.grad(rows, weight, grad)[0] for rows in (theirs, ours))
    torch.testing.assert_close(gradient, expected)


def test_autocast_does_not_round_the_gradient() -> None:
    torch.manual_seed(0)
    tokens, weight = torch.randint(8, (100,)), torch.randn(8, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        rows = FewSymbols.apply(tokens, weight)
        rows.backward(torch.full_like(rows, 1 + 2**-12))
    assert weight.grad is not None
    counts = torch.bincount(tokens, minlength=8)[:, None].expand(8, 5)
    torch.testing.assert_close(weight.grad, counts * (1 + 2**-12), rtol=1e-6, atol=0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bits_every_time() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(16, (4, 1 << 16), device="cuda", dtype=torch.int32)
    weight = torch.randn(16, 64, device="cuda", requires_grad=True)
    grad = torch.randn(*tokens.shape, 64, device="cuda")
    gradients = [torch.autograd.grad(look_up(tokens, weight), weight, grad)[0] for _ in range(5)]
    assert all(torch.equal(gradients[0], other) for other in gradients)
    torch.testing.assert_close(
        gradients[0], torch.autograd.grad(embedding(tokens, weight), weight, grad)[0], rtol=1e-4, atol=1e-2
    )
