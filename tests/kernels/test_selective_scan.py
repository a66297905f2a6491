"""Public selective scan: equal to its definition, and to itself chunked, packed, reversed or stepped."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import selective_scan, selective_scan_step
from kernels.selective_scan import operators
from tests.kernels.selective_scan_cases import (
    CASES,
    Arguments,
    Case,
    assert_close,
    in_double,
    make_arguments,
    outputs_and_gradients,
)

UNPACKED = [case for case in CASES if not case.packed]
STATEFUL = [Case("real", groups=2), Case("complex", is_complex=True, constant_b=True)]
OVER_TIME = ("x", "dt", "z", "B", "C")
# Relative to the largest value. One rounding to 16 bits is at most half a step of a value.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.1 * 2**-8, torch.float16: 1.1 * 2**-11}


def detached(arguments: Arguments) -> Arguments:
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def slice_time(arguments: Arguments, start: int, end: int) -> Arguments:
    """Return the arguments of positions start to end."""
    varying = [name for name in OVER_TIME if name in arguments and arguments[name].dim() > 2]
    constant = 2 + arguments["A"].is_complex()
    varying = [name for name in varying if name in ("x", "dt", "z") or arguments[name].dim() > constant]
    return arguments | {name: arguments[name][:, start:end] for name in varying}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_its_definition(case: Case, dtype: torch.dtype) -> None:
    arguments = make_arguments(case, dtype=dtype)
    actual = outputs_and_gradients(selective_scan, arguments)
    assert actual["y"].dtype == actual["x"].dtype == actual["B"].dtype == dtype
    assert actual["A"].dtype == actual["final_state"].dtype == arguments["A"].dtype
    truth = outputs_and_gradients(selective_scan, in_double(arguments))
    assert_close(actual, truth, TOLERANCES[dtype])


@settings(max_examples=25, deadline=None)
@given(
    case=st.sampled_from(CASES),
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    group=st.integers(1, 40),
    states=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_equals_its_definition_at_any_extent(
    case: Case, batch: int, length: int, group: int, states: int, seed: int
) -> None:
    arguments = make_arguments(case, batch=batch, length=length, channels=2 * group, states=states, seed=seed)
    actual = outputs_and_gradients(selective_scan, arguments)
    assert_close(actual, outputs_and_gradients(selective_scan, in_double(arguments)), 3e-5)


def test_groups_of_b_and_c_may_differ() -> None:
    arguments = make_arguments(Case("", groups=2), channels=12)
    arguments["C"] = torch.randn(2, 37, 3, 5, requires_grad=True)
    actual = outputs_and_gradients(selective_scan, arguments)
    assert_close(actual, outputs_and_gradients(selective_scan, in_double(arguments)), 1e-5)


@pytest.mark.parametrize("case", UNPACKED, ids=str)
def test_step_equals_scan(case: Case) -> None:
    arguments = detached(make_arguments(case, length=7)) | {"reverse": False}
    y, final_state = selective_scan(**arguments, return_final_state=True)
    state = arguments.pop("initial_state", torch.zeros_like(final_state)).clone()
    del arguments["reverse"]
    for t in range(7):
        now = slice_time(arguments, t, t + 1)
        now |= {name: now[name].squeeze(1) for name in OVER_TIME if name in now and now[name].shape[1] == 1}
        torch.testing.assert_close(selective_scan_step(state, **now), y[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, final_state, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(case=st.sampled_from(STATEFUL), cuts=st.lists(st.integers(0, 80), max_size=4), reverse=st.booleans())
def test_chunks_that_carry_the_state_equal_the_whole(case: Case, cuts: list[int], reverse: bool) -> None:
    arguments = detached(make_arguments(case, length=80)) | {"reverse": reverse}
    y, final_state = selective_scan(**arguments, return_final_state=True)
    state = None
    chunks = []
    ranges = list(pairwise([0, *sorted(cuts), 80]))
    for start, end in reversed(ranges) if reverse else ranges:
        chunk = slice_time(arguments, start, end) | {"initial_state": state}
        chunk_y, state = selective_scan(**chunk, return_final_state=True)
        chunks.append(chunk_y)
    whole = torch.cat(chunks[::-1] if reverse else chunks, dim=1)
    torch.testing.assert_close(whole, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, final_state, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    case=st.sampled_from(STATEFUL),
    lengths=st.lists(st.sampled_from([0, 1, 2, 31, 32, 33]), min_size=1, max_size=5),
    reverse=st.booleans(),
)
def test_packed_equals_separate(case: Case, lengths: list[int], reverse: bool) -> None:
    arguments = make_arguments(case, batch=1, length=sum(lengths)) | {"reverse": reverse}
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    states = torch.randn(len(lengths), *arguments["A"].shape, dtype=arguments["A"].dtype)
    packed = arguments | {"cu_seqlens": torch.tensor(bounds), "initial_state": states.requires_grad_()}

    def separately(
        *, cu_seqlens: Tensor, initial_state: Tensor, return_final_state: bool, **rest: Any
    ) -> Any:
        parts = [
            selective_scan(
                **slice_time(rest, start, end), initial_state=initial_state[[index]], return_final_state=True
            )
            for index, (start, end) in enumerate(pairwise(cu_seqlens.tolist()))
        ]
        return torch.cat([y for y, _ in parts], dim=1), torch.cat([state for _, state in parts])

    assert_close(
        outputs_and_gradients(selective_scan, packed), outputs_and_gradients(separately, packed), 1e-5
    )


@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_reverse_equals_scan_of_flipped_time(case: Case) -> None:
    arguments = detached(make_arguments(case))
    y, state = selective_scan(**arguments | {"reverse": True}, return_final_state=True)
    flipped = {name: arguments[name].flip(1) for name in ("x", "dt", "z", "C") if arguments[name].dim() > 2}
    if not case.constant_b:
        flipped["B"] = arguments["B"].flip(1)
    flipped_y, flipped_state = selective_scan(**arguments | flipped, return_final_state=True)
    assert torch.equal(y, flipped_y.flip(1))
    assert torch.equal(state, flipped_state)


@pytest.mark.parametrize("case", [CASES[6], CASES[-1]], ids=str)
def test_number_of_threads_changes_no_bit(case: Case, two_threads: None) -> None:
    arguments = make_arguments(case, batch=3, length=150, channels=320, states=4)
    twice = outputs_and_gradients(selective_scan, arguments)
    torch.set_num_threads(1)
    once = outputs_and_gradients(selective_scan, arguments)
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_concurrent_callers_get_the_same_bits(two_threads: None) -> None:
    several = [make_arguments(CASES[5], length=150, channels=320, states=4, seed=seed) for seed in range(4)]
    alone = [outputs_and_gradients(selective_scan, arguments) for arguments in several]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda arguments: outputs_and_gradients(selective_scan, arguments), several))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_an_empty_scan_returns_the_initial_state(shape: tuple[int, int], is_complex: bool) -> None:
    case = Case("", is_complex=is_complex, initial_state=True)
    arguments = make_arguments(case, batch=shape[0], length=shape[1], channels=6)
    y, final_state = selective_scan(**arguments, return_final_state=True)
    assert y.shape == (*shape, 6)
    assert torch.equal(final_state, arguments["initial_state"])
    final_state.abs().sum().backward()
    assert arguments["initial_state"].grad.shape == final_state.shape
    assert not arguments["A"].grad.any()
    del arguments["initial_state"]
    assert not selective_scan(**arguments, return_final_state=True)[1].any()


def test_zero_packed_sequences_give_empty_outputs() -> None:
    arguments = make_arguments(Case(""), batch=1, length=0)
    y, final_state = selective_scan(**arguments, cu_seqlens=torch.tensor([0]), return_final_state=True)
    assert y.shape == (1, 0, 24)
    assert final_state.shape == (0, 24, 5)


@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_strides_do_not_matter(case: Case) -> None:
    arguments = make_arguments(case)
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    tensors = {
        name: value.detach().mT if value.dim() > 1 else value.detach() for name, value in tensors.items()
    }
    strided = {name: value.contiguous().mT if value.dim() > 1 else value for name, value in tensors.items()}
    assert not strided["x"].is_contiguous()
    strided = arguments | {name: value.requires_grad_() for name, value in strided.items()}
    actual = outputs_and_gradients(selective_scan, strided)
    expected = outputs_and_gradients(selective_scan, arguments)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_gradients_of_expanded_arguments_sum_over_repeats() -> None:
    arguments = make_arguments(Case("", D=True))
    one = arguments["A"].detach()[:1].requires_grad_()
    expanded = selective_scan(**arguments | {"A": one.expand(24, 5)})
    copied = selective_scan(**arguments | {"A": one.repeat(24, 1)})
    assert torch.equal(expanded, copied)
    gradients = [torch.autograd.grad(y.square().sum(), one)[0] for y in (expanded, copied)]
    assert torch.equal(*gradients)


def test_step_writes_a_state_of_any_strides() -> None:
    arguments = detached(make_arguments(Case(""), length=1))
    now = {name: value for name, value in arguments.items() if name not in ("reverse", *OVER_TIME)}
    now |= {name: arguments[name].squeeze(1) for name in OVER_TIME}
    state = torch.randn(2, 24, 5)
    strided = state.mT.contiguous().mT
    assert torch.equal(selective_scan_step(strided, **now), selective_scan_step(state, **now))
    assert torch.equal(strided, state)


def test_step_in_place_invalidates_saved_gradients() -> None:
    arguments = make_arguments(Case("", initial_state=True), length=1)
    y = selective_scan(**arguments)
    now = {name: arguments[name] for name in ("A", "D", "dt_bias", "dt_softplus")}
    now |= {name: arguments[name].squeeze(1) for name in OVER_TIME}
    assert not selective_scan_step(arguments["initial_state"].detach(), **now).requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dt_softplus", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
def test_extreme_dt_is_finite(is_complex: bool, dt_softplus: bool) -> None:
    case = Case("", is_complex=is_complex, dt_bias=False, dt_softplus=dt_softplus)
    arguments = make_arguments(case, length=40, states=16)
    low, high = (-30, 30) if dt_softplus else (0, 30)
    arguments["dt"] = torch.linspace(low, high, 40)[:, None].expand(2, 40, 24).clone().requires_grad_()
    actual = outputs_and_gradients(selective_scan, arguments)
    assert all(value.isfinite().all() for value in actual.values())
    assert_close(actual, outputs_and_gradients(selective_scan, in_double(arguments)), 1e-4)


def test_dt_is_widened_before_its_bias_and_softplus() -> None:
    arguments = make_arguments(Case(""))
    half = arguments["dt"].detach().bfloat16()
    arguments["dt"] = half
    y = selective_scan(**arguments)
    assert torch.equal(y, selective_scan(**arguments | {"dt": half.float()}))


@pytest.mark.parametrize("names", [["x"], ["A", "initial_state"], ["dt_bias"]])
def test_gradients_of_some_arguments_from_one_output(names: list[str]) -> None:
    arguments = make_arguments(Case("", initial_state=True))
    arguments = detached(arguments) | {name: arguments[name] for name in names}
    _, final_state = selective_scan(**arguments, return_final_state=True)
    actual = torch.autograd.grad(final_state.sum(), [arguments[name] for name in names])
    double = in_double(arguments)
    _, final_state = selective_scan(**double, return_final_state=True)
    truth = torch.autograd.grad(final_state.sum(), [double[name] for name in names])
    assert_close(dict(zip(names, actual, strict=True)), dict(zip(names, truth, strict=True)), 1e-5)


def test_second_gradient_raises() -> None:
    arguments = make_arguments(CASES[1])
    (gradient,) = torch.autograd.grad(selective_scan(**arguments).sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("case", [CASES[0], CASES[12], CASES[-6]], ids=str)
def test_operators_are_well_formed(case: Case) -> None:
    arguments = make_arguments(case, length=5, channels=6, states=2)
    pair = case.is_complex
    for name in ("B", "C"):
        value = arguments[name]
        if value.dim() == 3 + pair:
            arguments[name] = value.detach().unsqueeze(2).requires_grad_()
    order = (
        "x",
        "dt",
        "A",
        "B",
        "C",
        "D",
        "z",
        "dt_bias",
        "dt_softplus",
        "initial_state",
        "cu_seqlens",
        "reverse",
    )
    scan = tuple(arguments.get(name) for name in order)
    torch.library.opcheck(torch.ops.helixwave.selective_scan.default, scan)
    y, final_state, checkpoints = operators.selective_scan(*detached(dict(enumerate(scan))).values())
    backward = (torch.randn_like(y), torch.randn_like(final_state), *scan, checkpoints)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.helixwave.selective_scan_backward.default,
        tuple(detached(dict(enumerate(backward))).values()),
        test_utils=checks,
    )


@pytest.mark.parametrize("is_complex", [False, True])
def test_step_is_well_formed(is_complex: bool) -> None:
    arguments = detached(make_arguments(Case("", is_complex=is_complex, groups=2), length=1))
    state = torch.zeros(2, *arguments["A"].shape, dtype=arguments["A"].dtype)
    now = [
        arguments[name].squeeze(1) if name in OVER_TIME else arguments[name] for name in list(arguments)[:8]
    ]
    assert torch.library.opcheck(torch.ops.helixwave.selective_scan_step.default, (state, *now, True))


def test_compiles_without_a_break() -> None:
    arguments = make_arguments(Case("", groups=2, initial_state=True))
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}

    def block(**tensors: Tensor) -> Tensor:
        y, state = selective_scan(**tensors, dt_softplus=True, return_final_state=True)
        return y.square().sum() + state.sum()

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    actual = torch.autograd.grad(compiled(**tensors), list(tensors.values()))
    expected = torch.autograd.grad(block(**tensors), list(tensors.values()))
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_step_compiles_without_a_break() -> None:
    arguments = detached(make_arguments(Case(""), length=1))
    now = {name: value for name, value in arguments.items() if name not in ("reverse", *OVER_TIME)}
    now |= {name: arguments[name].squeeze(1) for name in OVER_TIME}
    compiled = torch.compile(selective_scan_step, backend="aot_eager", fullgraph=True)
    state, compiled_state = torch.ones(2, 24, 5), torch.ones(2, 24, 5)
    assert torch.equal(compiled(compiled_state, **now), selective_scan_step(state, **now))
    assert torch.equal(compiled_state, state)


BAD = {
    "x has shape": {"x": torch.zeros(2, 24)},
    "x is torch.int64": {"x": torch.zeros(2, 37, 24, dtype=torch.int64)},
    "dt has shape": {"dt": torch.zeros(2, 36, 24)},
    "A is torch.float64": {"A": torch.zeros(24, 5, dtype=torch.float64)},
    "A has shape": {"A": torch.zeros(23, 5)},
    "B has shape": {"B": torch.zeros(2, 37, 5, 5)},
    "C has shape": {"C": torch.zeros(24, 4)},
    "C is torch.int32": {"C": torch.zeros(24, 5, dtype=torch.int32)},
    "D has shape": {"D": torch.zeros(1)},
    "z has shape": {"z": torch.zeros(2, 37, 1)},
    "dt_bias is on meta": {"dt_bias": torch.zeros(24, device="meta")},
    "initial_state has shape": {"initial_state": torch.zeros(1, 24, 5)},
    "initial_state is torch.complex64": {"initial_state": torch.zeros(2, 24, 5, dtype=torch.complex64)},
    "x has batch 2": {"cu_seqlens": torch.tensor([0, 37])},
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_wrong_argument(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}.*; it should be"):
        selective_scan(**make_arguments(Case("")) | BAD[message])


@pytest.mark.parametrize("bounds", [[0, 36], [1, 37], [0, 20, 10, 37]])
def test_wrong_cu_seqlens_raise(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^cu_seqlens .*should"):
        selective_scan(**make_arguments(Case(""), batch=1), cu_seqlens=torch.tensor(bounds))


def test_step_rejects_ambiguous_shapes() -> None:
    x, A, state = torch.randn(4, 4), -torch.rand(4, 3), torch.zeros(4, 4, 3)
    with pytest.raises(ValueError, match=r"^B has shape .* both"):
        selective_scan_step(state, x, x, A, torch.randn(4, 3), torch.randn(4, 1, 3))
    with pytest.raises(ValueError, match=r"^state has shape .* it should be"):
        selective_scan_step(state[:2], x, x, A, torch.randn(4, 1, 3), torch.randn(4, 1, 3))
