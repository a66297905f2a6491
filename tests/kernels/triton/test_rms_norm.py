"""Triton kernels of the RMS norm against its definition."""

import pytest
import torch

from kernels.rms_norm import rms_norm
from tests.kernels.rms_norm_cases import SHAPES, make_arguments, outputs_and_gradients
from tests.kernels.selective_scan_cases import assert_close, in_double

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
with_and_without_residual = pytest.mark.parametrize("residual", [True, False])


@with_and_without_residual
@pytest.mark.parametrize("shape", [*SHAPES, (3, 1100), (2, 5000)], ids=str)
def test_equals_the_definition(shape: tuple[int, ...], residual: bool, device: str) -> None:
    arguments = make_arguments(shape, residual=residual, device=device)
    truth = outputs_and_gradients(rms_norm, in_double(arguments))
    assert_close(outputs_and_gradients(rms_norm, arguments), truth, 1e-5)


@with_and_without_residual
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equals_the_definition_within_rounding(dtype: torch.dtype, residual: bool, device: str) -> None:
    arguments = make_arguments((4, 9, 40), residual=residual, dtype=dtype, device=device)
    truth = outputs_and_gradients(rms_norm, in_double(arguments))
    output = outputs_and_gradients(rms_norm, arguments)
    assert_close(output, truth, torch.finfo(dtype).eps)
    assert output["y"].dtype == output["x"].dtype == dtype


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_through_one_output_only(output: int, device: str) -> None:
    arguments = make_arguments((3, 20), residual=True, device=device)
    doubled = in_double(arguments)
    gradients = torch.autograd.grad(rms_norm(**arguments)[output].sin().sum(), list(arguments.values()))
    truth = torch.autograd.grad(
        rms_norm(**doubled)[output].sin().sum(), list(doubled.values()), materialize_grads=True
    )
    for gradient, true in zip(gradients, truth, strict=True):
        torch.testing.assert_close(gradient.double(), true, rtol=1e-4, atol=1e-5)


def test_strided_and_expanded_inputs_equal_contiguous_ones(device: str) -> None:
    wide = torch.randn(6, 5, 40, device=device)
    strided = {"x": wide[:, :, ::2], "weight": wide[0, 0, ::2], "residual": wide[:1, :, 20:].expand(6, 5, 20)}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in strided.items()}
    contiguous = {name: tensor.detach().contiguous().requires_grad_() for name, tensor in strided.items()}
    expected = outputs_and_gradients(rms_norm, contiguous)
    assert_close(outputs_and_gradients(rms_norm, leaves), expected, 1e-6)


@pytest.mark.parametrize("shape", [(0, 20), (3, 0)])
def test_empty_input_gives_empty_output(shape: tuple[int, ...], device: str) -> None:
    arguments = make_arguments(shape, residual=True, device=device)
    output = outputs_and_gradients(rms_norm, arguments)
    assert output["y"].shape == output["residual_out"].shape == output["x"].shape == shape
    assert not output["weight"].any()


@on_gpu
def test_repeats_bit_for_bit(device: str) -> None:
    arguments = make_arguments((8, 5000, 300), residual=True, dtype=torch.bfloat16, device=device)
    first = outputs_and_gradients(rms_norm, arguments)
    for _ in range(19):
        again = outputs_and_gradients(rms_norm, arguments)
        assert all(torch.equal(first[name], again[name]) for name in first)


@on_gpu
def test_offsets_exceed_32_bits(device: str) -> None:
    channels, tail = 256, 100
    rows = 2**31 // channels + 1000
    x = torch.randn(rows, channels, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(channels, device=device)
    y, residual_out = rms_norm(x, weight)
    (dx,) = torch.autograd.grad(y, x, x.detach())
    end = x.detach()[-tail:].requires_grad_()
    expected, expected_out = rms_norm(end, weight)
    (dend,) = torch.autograd.grad(expected, end, end.detach())
    assert torch.equal(y[-tail:], expected)
    assert torch.equal(residual_out[-tail:], expected_out)
    assert torch.equal(dx[-tail:], dend)
