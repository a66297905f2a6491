"""RMS norm with residual add against its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.rms_norm import rms_norm
from tests.kernels.rms_norm_cases import SHAPES, make_arguments, outputs_and_gradients
from tests.kernels.selective_scan_cases import assert_close, in_double

with_and_without_residual = pytest.mark.parametrize("residual", [True, False])


@with_and_without_residual
def test_is_the_norm_of_torch_after_the_sum(residual: bool) -> None:
    arguments = make_arguments((2, 7, 20), residual=residual, dtype=torch.float64)
    x, weight = arguments["x"], arguments["weight"]
    y, residual_out = rms_norm(**arguments, eps=0.25)
    assert torch.equal(residual_out, x + arguments["residual"] if residual else x)
    torch.testing.assert_close(y, torch.nn.functional.rms_norm(residual_out, (20,), weight, 0.25))


@with_and_without_residual
def test_definition_passes_gradcheck(residual: bool) -> None:
    arguments = make_arguments((2, 3, 5), residual=residual, dtype=torch.float64)
    assert torch.autograd.gradcheck(rms_norm, tuple(arguments.values()))


@with_and_without_residual
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape: tuple[int, ...], residual: bool) -> None:
    arguments = make_arguments(shape, residual=residual)
    truth = outputs_and_gradients(rms_norm, in_double(arguments))
    assert_close(outputs_and_gradients(rms_norm, arguments), truth, 1e-5)


@with_and_without_residual
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equals_the_definition_within_rounding(dtype: torch.dtype, residual: bool) -> None:
    arguments = make_arguments((4, 9, 40), residual=residual, dtype=dtype)
    truth = outputs_and_gradients(rms_norm, in_double(arguments))
    output = outputs_and_gradients(rms_norm, arguments)
    assert_close(output, truth, torch.finfo(dtype).eps)
    assert output["y"].dtype == output["x"].dtype == dtype
    assert output["residual_out"].dtype == output["weight"].dtype == torch.float32


def test_accepts_a_residual_of_any_dtype() -> None:
    arguments = make_arguments((4, 40), residual=True, dtype=torch.bfloat16)
    arguments["residual"] = arguments["residual"].detach().bfloat16().requires_grad_()
    truth = outputs_and_gradients(rms_norm, in_double(arguments))
    output = outputs_and_gradients(rms_norm, arguments)
    assert_close(output, truth, torch.finfo(torch.bfloat16).eps)
    assert output["residual"].dtype == torch.bfloat16


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_through_one_output_only(output: int) -> None:
    arguments = make_arguments((3, 20), residual=True)
    doubled = in_double(arguments)
    gradients = torch.autograd.grad(rms_norm(**arguments)[output].sin().sum(), list(arguments.values()))
    truth = torch.autograd.grad(
        rms_norm(**doubled)[output].sin().sum(), list(doubled.values()), materialize_grads=True
    )
    for gradient, true in zip(gradients, truth, strict=True):
        torch.testing.assert_close(gradient.double(), true, rtol=1e-4, atol=1e-5)


def test_strided_and_expanded_inputs_equal_contiguous_ones() -> None:
    wide = torch.randn(6, 5, 40)
    strided = {
        "x": wide[:, :, ::2],
        "weight": torch.ones(1).expand(20),
        "residual": wide[:1, :, 20:].expand(6, 5, 20),
    }
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in strided.items()}
    contiguous = {name: tensor.detach().contiguous().requires_grad_() for name, tensor in strided.items()}
    expected = outputs_and_gradients(rms_norm, contiguous)
    assert_close(outputs_and_gradients(rms_norm, leaves), expected, 1e-6)


def test_number_of_threads_does_not_change_results() -> None:
    arguments = make_arguments((5000, 48), residual=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_thread = outputs_and_gradients(rms_norm, arguments)
        torch.set_num_threads(3)
        three_threads = outputs_and_gradients(rms_norm, arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one_thread[name], three_threads[name]) for name in one_thread)


@pytest.mark.parametrize("shape", [(0, 20), (2, 0, 20), (3, 0)])
def test_empty_input_gives_empty_output(shape: tuple[int, ...]) -> None:
    arguments = make_arguments(shape, residual=True)
    output = outputs_and_gradients(rms_norm, arguments)
    assert output["y"].shape == output["residual_out"].shape == output["x"].shape == shape
    assert not output["weight"].any()


@with_and_without_residual
def test_passes_opcheck(residual: bool) -> None:
    arguments = make_arguments((2, 3, 5), residual=residual, dtype=torch.bfloat16)
    inputs = (arguments["x"], arguments["weight"], arguments.get("residual"), 1e-5)
    operator = torch.ops.helixwave.rms_norm.default
    assert set(torch.library.opcheck(operator, inputs).values()) == {"SUCCESS"}


def test_second_derivative_raises() -> None:
    arguments = make_arguments((2, 5), residual=False)
    y, _ = rms_norm(**arguments)
    (dx,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="rms_norm was differentiated twice"):
        dx.sum().backward()


def test_compiles_without_a_graph_break() -> None:
    def two_norms(x: Tensor, weight: Tensor) -> Tensor:
        y, residual = rms_norm(x, weight)
        y, residual = rms_norm(y, weight, residual)
        return y + residual

    x, weight = torch.randn(2, 6, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    compiled = torch.compile(two_norms, fullgraph=True, backend="aot_eager")
    expected, output = two_norms(x, weight), compiled(x, weight)
    torch.testing.assert_close(output, expected)
    for gradient, true in zip(
        *(torch.autograd.grad(y.sum(), [x, weight]) for y in (output, expected)), strict=True
    ):
        torch.testing.assert_close(gradient, true)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"x": torch.tensor(1.0)}, r"x has shape \(\); it should be \(\.\.\., channels\)"),
        ({"x": torch.zeros(2, 5, dtype=torch.int32)}, "x is torch.int32; it should be float64"),
        ({"weight": torch.zeros(4)}, r"weight has shape \(4,\); it should be \(channels,\) = \(5,\)"),
        ({"weight": torch.zeros(5, device="meta")}, "weight is on meta; it should be on cpu"),
        ({"residual": torch.zeros(5)}, r"residual has shape \(5,\); it should be the shape of x = \(2, 5\)"),
    ],
)
def test_names_the_invalid_argument(replaced: dict[str, Any], message: str) -> None:
    arguments = make_arguments((2, 5), residual=True) | replaced
    with pytest.raises(ValueError, match=message):
        rms_norm(**arguments)
