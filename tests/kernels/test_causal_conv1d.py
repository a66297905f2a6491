"""The causal convolution against its definition: in one call, in chunks, in steps and packed."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from tests.kernels.causal_conv1d_cases import CASES, Case, make_arguments
from tests.kernels.selective_scan_cases import assert_close, in_double, outputs_and_gradients

MAMBA, STATE = CASES[0], CASES[2]


def test_is_the_depthwise_convolution_of_torch() -> None:
    arguments = make_arguments(MAMBA, dtype=torch.float64)
    x, weight, bias = arguments["x"], arguments["weight"], arguments["bias"]
    past_first = pad(x.transpose(1, 2), (weight.shape[1] - 1, 0))
    expected = silu(conv1d(past_first, weight.unsqueeze(1), bias, groups=len(weight))).transpose(1, 2)
    torch.testing.assert_close(causal_conv1d(**arguments), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_definition_passes_gradcheck(case: Case) -> None:
    arguments = make_arguments(case, length=13, channels=2, dtype=torch.float64)
    names = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad]

    def outputs(*leaves: Tensor) -> Any:
        replaced = arguments | dict(zip(names, leaves, strict=True))
        return causal_conv1d(**replaced, return_final_state=True)

    assert torch.autograd.gradcheck(outputs, [arguments[name] for name in names], fast_mode=True)


@pytest.mark.parametrize("length", [1, 2, 37])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case: Case, length: int) -> None:
    arguments = make_arguments(case, length=length)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    assert_close(outputs_and_gradients(causal_conv1d, arguments), truth, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition_within_rounding(case: Case, dtype: torch.dtype) -> None:
    arguments = make_arguments(case, dtype=dtype)
    truth = outputs_and_gradients(causal_conv1d, in_double(arguments))
    output = outputs_and_gradients(causal_conv1d, arguments)
    assert_close(output, truth, torch.finfo(dtype).eps)
    assert output["y"].dtype == output["final_state"].dtype == output["x"].dtype == dtype
    assert output["weight"].dtype == torch.float32


def test_sums_gradients_over_many_rows() -> None:
    weight, bias = torch.full((1, 1), 0.5, requires_grad=True), torch.zeros(1, requires_grad=True)
    y = causal_conv1d(torch.full((1, 300_000, 1), 0.1), weight, bias)
    dweight, dbias = torch.autograd.grad(y, [weight, bias], torch.full_like(y, 0.1))
    torch.testing.assert_close(dweight, torch.full((1, 1), 3_000.0), rtol=3e-5, atol=0)
    torch.testing.assert_close(dbias, torch.full((1,), 30_000.0), rtol=3e-5, atol=0)


@pytest.mark.parametrize("channels", [1, 16, 40])
def test_number_of_threads_does_not_change_results(channels: int) -> None:
    arguments = make_arguments(STATE, batch=4, length=300, channels=channels)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_thread = outputs_and_gradients(causal_conv1d, arguments)
        torch.set_num_threads(3)
        three_threads = outputs_and_gradients(causal_conv1d, arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one_thread[name], three_threads[name]) for name in one_thread)


@pytest.mark.parametrize("case", [case for case in CASES if case.initial_state and not case.packed], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_forward(case: Case, dtype: torch.dtype) -> None:
    arguments = make_arguments(case, length=9, dtype=dtype)
    x, state = arguments["x"].detach(), arguments["initial_state"].detach().clone()
    y, final_state = causal_conv1d(**arguments, return_final_state=True)
    weight, bias = arguments["weight"], arguments["bias"]
    steps = [causal_conv1d_step(state, x[:, t], weight, bias, case.activation) for t in range(9)]
    torch.testing.assert_close(torch.stack(steps, 1), y)
    torch.testing.assert_close(state.to(dtype), final_state)


def test_step_updates_a_strided_state() -> None:
    arguments = make_arguments(STATE, length=1)
    state = arguments["initial_state"].detach().transpose(1, 2).contiguous().transpose(1, 2)
    _, final_state = causal_conv1d(**arguments, return_final_state=True)
    causal_conv1d_step(state, arguments["x"][:, 0].detach(), arguments["weight"], arguments["bias"], "silu")
    torch.testing.assert_close(state, final_state)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 37), max_size=4), width=st.integers(1, 8))
def test_chunks_equal_the_whole(cuts: list[int], width: int) -> None:
    arguments = make_arguments(Case("any", width=width, initial_state=True))

    def in_chunks(x: Tensor, initial_state: Tensor, return_final_state: bool, **rest: Any) -> Any:
        outputs, state = [], initial_state
        for start, end in pairwise(sorted([0, *cuts, x.shape[1]])):
            y, state = causal_conv1d(x[:, start:end], initial_state=state, return_final_state=True, **rest)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    whole = outputs_and_gradients(causal_conv1d, arguments)
    assert_close(outputs_and_gradients(in_chunks, arguments), whole, 1e-5)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), width=st.integers(1, 8))
def test_packed_equals_separate(lengths: list[int], width: int) -> None:
    arguments = make_arguments(
        Case("any", width=width, initial_state=True), batch=len(lengths), length=sum(lengths)
    )
    arguments["x"] = arguments["x"][:1].detach().requires_grad_()
    bounds = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    packed = arguments | {"cu_seqlens": torch.tensor(bounds)}

    def one_by_one(x: Tensor, initial_state: Tensor, return_final_state: bool, **rest: Any) -> Any:
        outputs = [
            causal_conv1d(
                x[:, start:end],
                initial_state=initial_state[index : index + 1],
                return_final_state=True,
                **rest,
            )
            for index, (start, end) in enumerate(pairwise(bounds))
        ]
        return torch.cat([y for y, _ in outputs], 1), torch.cat([state for _, state in outputs])

    separate = outputs_and_gradients(one_by_one, arguments)
    assert_close(outputs_and_gradients(causal_conv1d, packed), separate, 1e-5)


def test_strided_and_expanded_inputs_equal_contiguous_ones() -> None:
    arguments = make_arguments(STATE)
    wide = torch.randn(2, 37, 40)
    strided = {"x": wide[..., 1::2], "bias": torch.ones(1).expand(20), "weight": torch.randn(4, 20).t()}
    strided["initial_state"] = torch.randn(1, 3, 20).expand(2, 3, 20)
    contiguous = {name: tensor.contiguous() for name, tensor in strided.items()}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
        return outputs_and_gradients(causal_conv1d, arguments | leaves)

    assert_close(run({name: tensor.detach() for name, tensor in strided.items()}), run(contiguous), 1e-6)


@pytest.mark.parametrize(("batch", "length", "channels"), [(0, 5, 20), (2, 0, 20), (0, 0, 20), (2, 3, 0)])
def test_empty_input_gives_empty_output(batch: int, length: int, channels: int) -> None:
    arguments = make_arguments(STATE, batch=batch, length=length, channels=channels)
    output = outputs_and_gradients(causal_conv1d, arguments)
    assert output["y"].shape == (batch, length, channels)
    assert torch.equal(output["final_state"], arguments["initial_state"])
    assert not output["weight"].any()


def test_gradient_through_the_final_state_only() -> None:
    arguments = make_arguments(STATE, length=2)
    _, final_state = causal_conv1d(**arguments, return_final_state=True)
    dx, dstate = torch.autograd.grad(final_state.sum(), [arguments["x"], arguments["initial_state"]])
    assert torch.equal(dx, torch.ones_like(dx))
    assert dstate.sum() == dstate[:, 2].sum() == 2 * 20


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_passes_opcheck(case: Case) -> None:
    arguments = make_arguments(case, length=5, channels=3)
    names = ("x", "weight", "bias", "initial_state", "cu_seqlens")
    inputs = (*(arguments.get(name) for name in names), True, True)
    operator = torch.ops.helixwave.causal_conv1d.default
    assert set(torch.library.opcheck(operator, inputs).values()) == {"SUCCESS"}
    step = torch.ops.helixwave.causal_conv1d_step.default
    weight = arguments["weight"].detach()
    results = torch.library.opcheck(step, (torch.randn(2, 3, 3), torch.randn(2, 3), weight, None, True))
    assert set(results.values()) == {"SUCCESS"}


def test_second_derivative_raises() -> None:
    arguments = make_arguments(MAMBA)
    y = causal_conv1d(**arguments)
    (dx,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="causal_conv1d was differentiated twice"):
        dx.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_has_no_gradient(dtype: torch.dtype) -> None:
    arguments = make_arguments(STATE, length=1, dtype=dtype)
    state = arguments["initial_state"].detach().clone()
    y = causal_conv1d_step(state, arguments["x"][:, 0], arguments["weight"], arguments["bias"])
    assert not y.requires_grad
    assert not state.requires_grad


def test_compiles_without_a_graph_break() -> None:
    def forward_and_steps(x: Tensor, weight: Tensor, state: Tensor) -> Tensor:
        y, state = causal_conv1d(x, weight, None, "silu", initial_state=state, return_final_state=True)
        return y + causal_conv1d_step(state.detach().clone(), x[:, 0].detach(), weight).unsqueeze(1)

    x, weight, state = torch.randn(2, 6, 5, requires_grad=True), torch.randn(5, 4), torch.randn(2, 3, 5)
    compiled = torch.compile(forward_and_steps, fullgraph=True, backend="aot_eager")
    expected, output = forward_and_steps(x, weight, state), compiled(x, weight, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (output, expected)))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"x": torch.zeros(5, 20)}, r"x has shape \(5, 20\); it should be \(batch, length, channels\)"),
        ({"x": torch.zeros(2, 5, 20, dtype=torch.int64)}, "x is torch.int64; it should be float64"),
        ({"x": torch.zeros(2, 5, 19)}, r"weight has shape \(20, 4\); .* \(19, 1 to 8\)"),
        ({"weight": torch.zeros(20, 9)}, r"weight has shape \(20, 9\)"),
        ({"weight": torch.zeros(20, 4, device="meta")}, "weight is on meta; it should be on cpu"),
        ({"bias": torch.zeros(19)}, r"bias has shape \(19,\); it should be \(channels,\) = \(20,\)"),
        ({"activation": "relu"}, "activation is 'relu'; it should be None or \"silu\""),
        ({"initial_state": torch.zeros(2, 4, 20)}, r"initial_state has shape .* = \(2, 3, 20\)"),
        ({"cu_seqlens": torch.tensor([0, 37])}, "x has batch 2; it should be 1"),
    ],
)
def test_names_the_invalid_argument(replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**(make_arguments(STATE) | replaced))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (torch.tensor([0.0, 37.0]), "cu_seqlens is torch.float32; it should be int32 or int64"),
        (torch.tensor([[0, 37]]), r"cu_seqlens has shape \(1, 2\); it should be \(sequences \+ 1,\)"),
        (torch.tensor([0, 36]), "cu_seqlens runs from 0 to 36; it should run from 0 to 37"),
        (torch.tensor([0, 9, 5, 37]), "cu_seqlens decreases"),
    ],
)
def test_names_the_invalid_bounds(bounds: Tensor, message: str) -> None:
    arguments = make_arguments(CASES[3]) | {"cu_seqlens": bounds}
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**arguments)


def test_step_names_the_invalid_argument() -> None:
    with pytest.raises(ValueError, match=r"state has shape \(2, 2, 20\); it should be .* = \(2, 3, 20\)"):
        causal_conv1d_step(torch.zeros(2, 2, 20), torch.zeros(2, 20), torch.zeros(20, 4))
    with pytest.raises(ValueError, match=r"x has shape \(2, 1, 20\); it should be \(batch, channels\)"):
        causal_conv1d_step(torch.zeros(2, 3, 20), torch.zeros(2, 1, 20), torch.zeros(20, 4))
