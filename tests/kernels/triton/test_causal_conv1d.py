"""The Triton kernels of the causal convolution against its definition."""

import pytest
import torch

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from kernels.causal_conv1d.triton import BACKWARD
from tests.kernels.causal_conv1d_cases import CASES, Case, make_arguments
from tests.kernels.selective_scan_cases import assert_close, in_double, outputs_and_gradients

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MAMBA, STATE, PACKED_STATE = CASES[0], CASES[2], CASES[4]


@pytest.mark.parametrize("length", [1, 2, 37])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case: Case, length: int, device: str) -> None:
    arguments = make_arguments(case, length=length, device=device)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    assert_close(outputs_and_gradients(causal_conv1d, arguments), truth, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [MAMBA, PACKED_STATE], ids=str)
def test_equals_the_definition_within_rounding(case: Case, dtype: torch.dtype, device: str) -> None:
    arguments = make_arguments(case, dtype=dtype, device=device)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    output = outputs_and_gradients(causal_conv1d, arguments)
    assert_close(output, truth, torch.finfo(dtype).eps)
    assert output["y"].dtype == output["final_state"].dtype == output["x"].dtype == dtype


@pytest.mark.parametrize("case", [STATE, PACKED_STATE], ids=str)
def test_rows_of_neighbouring_programs_agree(case: Case, device: str) -> None:
    boundary = BACKWARD.min_rows
    arguments = make_arguments(case, length=2 * boundary + 3, channels=3, device=device)
    if case.packed:
        bounds = [0, 5, boundary - 2, boundary + 1, boundary + 1, boundary + 2, 2 * boundary + 3]
        arguments["cu_seqlens"] = torch.tensor(bounds, device=device)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    assert_close(outputs_and_gradients(causal_conv1d, arguments), truth, 1e-5)


def test_several_blocks_of_channels(device: str) -> None:
    arguments = make_arguments(STATE, batch=1, length=6, channels=300, device=device)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    assert_close(outputs_and_gradients(causal_conv1d, arguments), truth, 1e-5)


def test_strided_and_expanded_inputs_equal_contiguous_ones(device: str) -> None:
    arguments = make_arguments(STATE, length=9, device=device)
    projected = torch.randn(2, 9, 40, device=device)
    weight = torch.randn(4, 20, device=device).t()
    for x in (projected[..., 20:], projected[..., ::2], projected[:, :1, :20].expand(2, 9, 20)):
        strided = arguments | {"x": x.detach().requires_grad_(), "weight": weight.detach().requires_grad_()}
        contiguous = arguments | {
            name: strided[name].detach().contiguous().requires_grad_() for name in ("x", "weight")
        }
        expected = outputs_and_gradients(causal_conv1d, contiguous)
        assert_close(outputs_and_gradients(causal_conv1d, strided), expected, 1e-6)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_steps_equal_forward(width: int, state_dtype: torch.dtype, device: str) -> None:
    case = Case("any", width=width, initial_state=True)
    arguments = make_arguments(case, length=5, dtype=torch.bfloat16, device=device)
    arguments["initial_state"] = arguments["initial_state"].detach().to(state_dtype)
    x, state = arguments["x"].detach(), arguments["initial_state"].clone()
    y, final_state = causal_conv1d(**arguments, return_final_state=True)
    weight, bias = arguments["weight"].detach(), arguments["bias"].detach()
    steps = [causal_conv1d_step(state, x[:, t], weight, bias, "silu") for t in range(5)]
    torch.testing.assert_close(torch.stack(steps, 1), y)
    torch.testing.assert_close(state.to(final_state.dtype), final_state)


@pytest.mark.parametrize(("batch", "length", "channels"), [(0, 5, 20), (2, 0, 20), (0, 0, 20), (2, 3, 0)])
def test_empty_input_gives_empty_output(batch: int, length: int, channels: int, device: str) -> None:
    arguments = make_arguments(STATE, batch=batch, length=length, channels=channels, device=device)
    output = outputs_and_gradients(causal_conv1d, arguments)
    assert output["y"].shape == (batch, length, channels)
    assert torch.equal(output["final_state"], arguments["initial_state"])
    assert not output["weight"].any()


@on_gpu
def test_repeats_bit_for_bit(device: str) -> None:
    arguments = make_arguments(STATE, batch=4, length=5000, channels=300, dtype=torch.bfloat16, device=device)
    first = outputs_and_gradients(causal_conv1d, arguments)
    for _ in range(19):
        again = outputs_and_gradients(causal_conv1d, arguments)
        assert all(torch.equal(first[name], again[name]) for name in first)


@on_gpu
def test_step_replays_as_a_cuda_graph(device: str) -> None:
    weight, state = torch.randn(300, 4, device=device), torch.zeros(8, 3, 300, device=device)
    x = torch.randn(8, 300, device=device)
    causal_conv1d_step(state, x, weight, None, "silu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = causal_conv1d_step(state, x, weight, None, "silu")
    expected_state = state.clone()
    for _ in range(3):
        x.normal_()
        expected = causal_conv1d_step(expected_state, x, weight, None, "silu")
        graph.replay()
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(state, expected_state)


@on_gpu
def test_offsets_exceed_32_bits(device: str) -> None:
    channels, tail = 512, 100
    length = 2**31 // channels + 1000
    x = torch.randn(1, length, channels, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(channels, 4, device=device, requires_grad=True)
    y = causal_conv1d(x, weight, None, "silu")
    grad = torch.randn_like(y)
    dx, dweight = torch.autograd.grad(y, [x, weight], grad)
    end = x.detach()[:, -tail:].requires_grad_()
    state = x.detach()[:, -tail - 3 : -tail]
    expected = causal_conv1d(end, weight, None, "silu", initial_state=state)
    (dend,) = torch.autograd.grad(expected, end, grad[:, -tail:])
    torch.testing.assert_close(y[:, -tail:], expected)
    torch.testing.assert_close(dx[:, -tail:], dend)
    assert dweight.isfinite().all()
