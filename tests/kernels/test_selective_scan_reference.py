"""Definition of the scan: gradients equal finite differences, values equal the closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.selective_scan import reference
from kernels.selective_scan.arguments import ScanArguments
from tests.kernels.selective_scan_cases import CASES, Arguments, Case, make_arguments


def selective_scan(**arguments: Any) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(ScanArguments(**arguments))


def selective_scan_step(state: Tensor, **arguments: Any) -> Tensor:
    return reference.selective_scan_step(ScanArguments(**arguments, initial_state=state))


def small(case: Case) -> Arguments:
    return make_arguments(case, length=6, channels=4, states=2, dtype=torch.float64)


def differentiable(arguments: Arguments) -> dict[str, Tensor]:
    return {name: value for name, value in arguments.items() if getattr(value, "requires_grad", False)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_match_finite_differences(case: Case) -> None:
    arguments = small(case)
    leaves = differentiable(arguments)

    def scan(*values: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(**(arguments | dict(zip(leaves, values, strict=True))))

    assert torch.autograd.gradcheck(scan, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("is_complex", [False, True])
def test_second_gradients_match_finite_differences(is_complex: bool) -> None:
    arguments = small(Case("state", is_complex=is_complex, initial_state=True))
    leaves = differentiable(arguments)

    def scan(*values: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(**(arguments | dict(zip(leaves, values, strict=True))))

    assert torch.autograd.gradgradcheck(scan, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("is_complex", [False, True])
def test_constant_parameters_make_a_convolution(is_complex: bool) -> None:
    """With dt, A, B and C constant, y_t = sum over s of (C exp(dt A)^(t - s) dt B) x_s."""
    case = Case("", is_complex=is_complex, constant_b=True, constant_c=True, D=False, z=False, dt_bias=False)
    arguments = make_arguments(case, length=9, channels=4, states=3, dtype=torch.float64)
    dt = torch.rand(4, dtype=torch.float64)
    arguments |= {"dt": dt.expand(2, 9, 4), "dt_softplus": False}
    x, A, B, C = (arguments[name].detach() for name in ("x", "A", "B", "C"))
    if is_complex:
        B, C = torch.view_as_complex(B), torch.view_as_complex(C)
    powers = torch.exp(torch.arange(9)[:, None, None] * dt[:, None] * A)
    kernel = (C * powers * dt[:, None] * B).sum(-1)
    kernel = 2 * kernel.real if is_complex else kernel
    expected = [sum(kernel[t - s] * x[:, s] for s in range(t + 1)) for t in range(9)]
    torch.testing.assert_close(selective_scan(**arguments)[0].detach(), torch.stack(expected, dim=1))


@pytest.mark.parametrize("is_complex", [False, True])
def test_step_is_one_position(is_complex: bool) -> None:
    case = Case("", is_complex=is_complex, groups=2, constant_c=True, initial_state=True)
    arguments = {
        name: value.detach() if isinstance(value, Tensor) else value for name, value in small(case).items()
    }
    y, final_state = selective_scan(**arguments)
    state = arguments.pop("initial_state").clone()
    del arguments["reverse"]
    for t in range(y.shape[1]):
        now = arguments | {name: arguments[name][:, t] for name in ("x", "dt", "z", "B")}
        torch.testing.assert_close(selective_scan_step(state, **now), y[:, t])
    torch.testing.assert_close(state, final_state)


def test_bfloat16_is_rounded_once() -> None:
    arguments = make_arguments(CASES[1], dtype=torch.bfloat16)
    wide = {name: value.float() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    y, _ = selective_scan(**arguments)
    assert torch.equal(y, selective_scan(**wide)[0].bfloat16())
