"""Triton kernels of the selective scan against its definition, with one segment of time and with many."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels import selective_scan, selective_scan_step
from kernels.selective_scan import triton as backend
from kernels.selective_scan import triton_forward, triton_plan
from kernels.selective_scan.arguments import ScanArguments
from tests.kernels.selective_scan_cases import (
    CASES,
    Arguments,
    Case,
    assert_close,
    in_double,
    make_arguments,
    outputs_and_gradients,
)
from tests.kernels.triton.conftest import INTERPRETED

CHUNK = 4 if INTERPRETED else triton_plan.CHUNK
BY_NAME = {case.name: case for case in CASES}
MOST_AT_ONCE = [
    Case("real", groups=2, initial_state=True),
    Case("complex packed", is_complex=True, packed=True, initial_state=True),
    BY_NAME["complex packed constant reverse"],
]
# Relative to the largest value. 16-bit types round by half a step; the interpreter truncates bfloat16.
TOLERANCES = {
    torch.float32: 2e-5,
    torch.bfloat16: 1.1 * (2**-7 if INTERPRETED else 2**-8),
    torch.float16: 1.1 * 2**-11,
}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the CUDA C++ kernels, and shrink the work of the interpreter."""
    if not INTERPRETED:
        from kernels.selective_scan import cuda

        monkeypatch.setattr(cuda, "covers", lambda *_: False)
        return
    from triton.runtime.interpreter import InterpretedFunction

    monkeypatch.setattr(triton_plan, "CHUNK", CHUNK)
    monkeypatch.setattr(triton_plan, "BACKWARD", triton_plan.BACKWARD._replace(block=2))
    monkeypatch.setattr(triton_forward, "PASS_AHEAD", 2)

    # A launch patches the language for a kernel; patching again in each inner call takes most of the time.
    patch_and_call = InterpretedFunction.__call__

    def call(function: InterpretedFunction, *arguments: Any, **keywords: Any) -> Any:
        if function.fn.__module__.startswith("triton."):
            return patch_and_call(function, *arguments, **keywords)
        return function.rewrite()(*arguments, **keywords)

    monkeypatch.setattr(InterpretedFunction, "__call__", call)


@pytest.fixture
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk every chunk as one segment."""
    monkeypatch.setattr(triton_plan, "split_chunks", lambda *_: 1)


@pytest.fixture
def one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk all of time as one segment."""
    monkeypatch.setattr(triton_plan, "split_chunks", lambda chunks, *_: chunks)


def assert_equals_definition(arguments: Arguments, tolerance: float = TOLERANCES[torch.float32]) -> None:
    actual = outputs_and_gradients(selective_scan, arguments)
    assert_close(actual, outputs_and_gradients(selective_scan, in_double(arguments)), tolerance)


def small(case: Case, device: str, **changes: Any) -> Arguments:
    """Return arguments of a few channels that end within the third chunk."""
    shape = {"batch": 1 if INTERPRETED else 3, "length": 2 * CHUNK + 1, "channels": 4, "states": 3} | changes
    return make_arguments(case, device=device, **shape)


@pytest.mark.usefixtures("many_segments")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_segments_equal_the_definition(case: Case, device: str) -> None:
    assert_equals_definition(small(case, device))


@pytest.mark.usefixtures("one_segment")
@pytest.mark.parametrize("case", MOST_AT_ONCE, ids=str)
def test_one_segment_equals_the_definition(case: Case, device: str) -> None:
    assert_equals_definition(small(case, device, batch=2))


@pytest.mark.usefixtures("many_segments")
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK + 1])
@pytest.mark.parametrize("case", MOST_AT_ONCE, ids=str)
def test_any_length_equals_the_definition(case: Case, length: int, device: str) -> None:
    assert_equals_definition(small(case, device, length=length, batch=2))


@pytest.mark.parametrize("states", [1, 16, 17] if INTERPRETED else [1, 16, 17, 64, 128, 256])
@pytest.mark.parametrize("case", MOST_AT_ONCE[:2], ids=str)
def test_any_number_of_states_equals_the_definition(case: Case, states: int, device: str) -> None:
    assert_equals_definition(small(case, device, states=states, length=CHUNK + 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", MOST_AT_ONCE[:2], ids=str)
def test_equals_the_definition_within_rounding(case: Case, dtype: torch.dtype, device: str) -> None:
    arguments = small(case, device, dtype=dtype)
    assert_equals_definition(arguments, TOLERANCES[dtype])
    actual = outputs_and_gradients(selective_scan, arguments)
    assert {actual[name].dtype for name in ("y", "x", "dt", "B", "C", "z")} == {dtype}
    assert actual["final_state"].dtype == actual["A"].dtype == arguments["A"].dtype


@pytest.mark.parametrize("channels", [1, 70])
@pytest.mark.parametrize("splits", [1, 2])
def test_any_number_of_channels_equals_the_definition(
    channels: int, splits: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partly filled tiles, added to one partial sum or two, by one program or several."""
    monkeypatch.setattr(triton_plan, "split_tiles", lambda tiles, *_: min(splits, tiles))
    monkeypatch.setattr(triton_plan, "BACKWARD", triton_plan.BACKWARD._replace(programs=splits))
    assert_equals_definition(small(BY_NAME["mamba"], device, channels=channels, length=CHUNK + 1))


def test_different_groups_of_b_and_c_equal_the_definition(device: str) -> None:
    arguments = small(Case("groups", groups=2), device, channels=12)
    other = small(Case("groups", groups=3), device, channels=12)
    assert_equals_definition(arguments | {"C": other["C"]})


def test_large_steps_are_finite_and_equal_the_definition(device: str) -> None:
    for case in (BY_NAME["mamba"], BY_NAME["complex mamba"]):
        arguments = small(case, device)
        with torch.no_grad():
            arguments["dt"].copy_(torch.linspace(-30, 30, arguments["dt"].numel()).view_as(arguments["dt"]))
        assert_equals_definition(arguments)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("case", MOST_AT_ONCE[1:], ids=str)
def test_gradients_of_one_output_equal_the_definition(case: Case, output: int, device: str) -> None:
    def gradients(arguments: Arguments) -> dict[str, torch.Tensor]:
        out = selective_scan(**arguments, return_final_state=True)[output].abs().square().sum()
        names = [name for name, value in arguments.items() if getattr(value, "requires_grad", False)]
        actual = torch.autograd.grad(out, [arguments[name] for name in names], materialize_grads=True)
        return dict(zip(names, actual, strict=True))

    arguments = small(case, device, length=CHUNK + 1)
    assert_close(gradients(arguments), gradients(in_double(arguments)), TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    "case",
    [
        Case("real", groups=2),
        Case("complex constant B", is_complex=True, constant_b=True),
        Case("constant C bare", constant_c=True, D=False, z=False, dt_bias=False, dt_softplus=False),
    ],
    ids=str,
)
def test_steps_equal_the_scan(case: Case, device: str) -> None:
    arguments = small(replace(case, initial_state=True), device, length=5)
    arguments = {
        name: value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    y, final_state = selective_scan(**arguments, return_final_state=True)
    state = arguments.pop("initial_state").clone()
    arguments.pop("reverse")
    varying = {"x", "dt", "z"} | {
        name for name, constant in (("B", case.constant_b), ("C", case.constant_c)) if not constant
    }
    for t in range(y.shape[1]):
        now = {name: value[:, t] if name in varying else value for name, value in arguments.items()}
        y_t = selective_scan_step(state, **now)
        assert_close({"y": y_t}, {"y": y[:, t].double()}, 1e-5)
    assert_close({"state": state}, {"state": final_state}, 1e-5)


@pytest.mark.usefixtures("many_segments")
@pytest.mark.parametrize("case", MOST_AT_ONCE[:2], ids=str)
def test_runs_are_equal_to_the_bit(case: Case, device: str) -> None:
    arguments = small(case, device) if INTERPRETED else small(case, device, batch=3, length=999, channels=500)
    first = outputs_and_gradients(selective_scan, arguments)
    for _ in range(1 if INTERPRETED else 19):
        again = outputs_and_gradients(selective_scan, arguments)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("chunks", [1, 2, 33, 16384])
@pytest.mark.parametrize("rows", [1, 7, 1584, 5000])
def test_segments_are_whole_chunks_and_fill_the_programs(chunks: int, rows: int) -> None:
    segment = triton_plan.split_chunks(chunks, rows, 1584, 1.6)
    segments = -(-chunks // segment)
    assert 1 <= segment <= chunks
    assert rows < 1584 or segments == 1, "Rows that fill the GPU were cut into segments."
    assert rows * segments >= min(rows * chunks, 1584) / 2, "Most of the GPU would idle."


@on_gpu
@pytest.mark.parametrize("segments", ["many_segments", "one_segment"])
@pytest.mark.parametrize("states", [16, 64, 256])
def test_many_channels_equal_the_definition(
    segments: str, states: int, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(segments)
    case = Case("all", initial_state=True, groups=2)
    assert_equals_definition(small(case, "cuda", length=3 * CHUNK + 5, channels=600, states=states))


@on_gpu
def test_a_graph_replays_the_step() -> None:
    arguments = small(Case("real"), "cuda", length=1)
    arguments = {
        name: value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    arguments.pop("reverse")
    now = {
        name: value[:, 0] if value.dim() > 2 else value
        for name, value in arguments.items()
        if name != "dt_softplus"
    }
    state = torch.zeros(*now["x"].shape, 3, device="cuda")
    selective_scan_step(state.clone(), **now, dt_softplus=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = selective_scan_step(state, **now, dt_softplus=True)
    state.zero_()
    for _ in range(3):
        graph.replay()
    expected = torch.zeros_like(state)
    for _ in range(3):
        expected_y = selective_scan_step(expected, **now, dt_softplus=True)
    assert torch.equal(y, expected_y)
    assert torch.equal(state, expected)


@on_gpu
@pytest.mark.parametrize("reverse", [False, True])
def test_more_than_2_to_the_31_elements(reverse: bool) -> None:
    """The end of a long scan equals a short scan from the state at its start."""
    length, channels, states = 2**22 + 3, 520, 4
    torch.manual_seed(0)
    x, dt, grad_y = (torch.randn(1, length, channels, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    B, C = (torch.randn(1, length, 1, states, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    A, bias = -torch.rand(channels, states, device="cuda") - 0.5, torch.full((channels,), -3.0, device="cuda")
    scan = ScanArguments(x, dt, A, B, C, dt_bias=bias, dt_softplus=True, reverse=reverse)
    assert x.numel() > 2**31
    y, _, checkpoints = backend.forward(scan)
    grads = backend.backward(grad_y, None, scan, checkpoints)

    chunk = length // CHUNK - 3
    stretch = slice(0, length - chunk * CHUNK) if reverse else slice(chunk * CHUNK, None)
    arguments = {"x": x, "dt": dt, "B": B, "C": C}
    arguments = {name: value[:, stretch].double().requires_grad_() for name, value in arguments.items()}
    expected = selective_scan(
        **arguments,
        A=A.double(),
        dt_bias=bias.double(),
        dt_softplus=True,
        initial_state=checkpoints[:, chunk].double(),
        reverse=reverse,
    )
    gradients = torch.autograd.grad(expected, list(arguments.values()), grad_y[:, stretch].double())
    actual = {"y": y, "x": grads.x, "dt": grads.dt, "B": grads.B, "C": grads.C}
    assert_close(
        {name: value[:, stretch] for name, value in actual.items()},
        {"y": expected.detach()} | dict(zip(arguments, gradients, strict=True)),
        TOLERANCES[torch.bfloat16],
    )
