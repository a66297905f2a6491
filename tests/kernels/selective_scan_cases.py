"""Random arguments for every variant of the selective scan, and comparison of its outputs and gradients.

Usage: `actual = outputs_and_gradients(selective_scan, arguments)`,
`truth = outputs_and_gradients(selective_scan, in_double(arguments))`, `assert_close(actual, truth, 1e-4)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Variant of the scan: presence and form of its arguments."""

    name: str
    is_complex: bool = False
    constant_b: bool = False
    constant_c: bool = False
    groups: int | None = None
    D: bool = True
    z: bool = True
    dt_bias: bool = True
    dt_softplus: bool = True
    initial_state: bool = False
    packed: bool = False
    reverse: bool = False

    def __str__(self) -> str:
        return self.name


_REAL_CASES = (
    Case("bare", D=False, z=False, dt_bias=False, dt_softplus=False),
    Case("mamba"),
    Case("softplus alone", z=False, dt_bias=False),
    Case("bias alone", D=False, dt_softplus=False),
    Case("gate alone", D=False, dt_bias=False, dt_softplus=False),
    Case("state", initial_state=True),
    Case("groups", groups=2, initial_state=True),
    Case("constant B", constant_b=True),
    Case("constant C", constant_c=True, groups=2),
    Case("constant B and C", constant_b=True, constant_c=True, initial_state=True),
    Case("reverse", reverse=True, initial_state=True),
    Case("packed", packed=True),
    Case("packed state", packed=True, initial_state=True, groups=2),
    Case(
        "packed constant reverse",
        packed=True,
        initial_state=True,
        reverse=True,
        constant_b=True,
        constant_c=True,
    ),
    Case("packed reverse", packed=True, reverse=True, initial_state=True),
)
CASES = _REAL_CASES + tuple(
    replace(case, name=f"complex {case.name}", is_complex=True) for case in _REAL_CASES
)


def make_arguments(
    case: Case,
    *,
    batch: int = 2,
    length: int = 37,
    channels: int = 24,
    states: int = 5,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Arguments:
    """Return keyword arguments of `selective_scan`; the float ones are leaves that require a gradient.

    `dtype` is the dtype of x, dt, B, C and z. A, D, dt_bias and the state are fp32, or fp64 if `dtype` is.
    A packed case has batch 1 and five sequences: the second and the last empty, the third of length 1.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    batch = 1 if case.packed else batch
    pair = (2,) if case.is_complex else ()
    groups = () if case.groups is None else (case.groups,)
    varying, constant = (batch, length, *groups, states, *pair), (channels, states, *pair)

    def normal(*shape: int, dtype: torch.dtype = wide) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    decay = -torch.arange(1, states + 1) * torch.rand(channels, states, generator=generator).add(0.5)
    A = torch.complex(decay / 4, decay * -pi).to(wide.to_complex()) if case.is_complex else decay.to(wide)
    dt = normal(batch, length, channels) if case.dt_softplus else normal(batch, length, channels).abs() / 10
    arguments: Arguments = {
        "x": normal(batch, length, channels, dtype=dtype),
        "dt": (dt - 2 if case.dt_softplus and not case.dt_bias else dt).to(dtype),
        "A": A,
        "B": normal(*constant, dtype=dtype) if case.constant_b else normal(*varying, dtype=dtype),
        "C": normal(*constant, dtype=dtype) if case.constant_c else normal(*varying, dtype=dtype),
    }
    if case.D:
        arguments["D"] = normal(channels)
    if case.z:
        arguments["z"] = normal(batch, length, channels, dtype=dtype)
    if case.dt_bias:
        arguments["dt_bias"] = normal(channels) - 3 if case.dt_softplus else normal(channels).abs() / 10
    bounds = _pack(length) if case.packed else [0, length]
    if case.initial_state:
        state = normal(len(bounds) - 1 if case.packed else batch, channels, states, *pair)
        arguments["initial_state"] = torch.view_as_complex(state) if case.is_complex else state
    arguments = {name: tensor.to(device).requires_grad_() for name, tensor in arguments.items()}
    if case.packed:
        arguments["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32, device=device)
    return arguments | {"dt_softplus": case.dt_softplus, "reverse": case.reverse}


def _pack(length: int) -> list[int]:
    """Return bounds of five sequences: a third of the length, empty, one position, the rest, empty."""
    first = length // 3
    return [0, first, first, min(first + 1, length), length, length]


def in_double(arguments: Arguments) -> Arguments:
    """Return the same values in fp64 and complex128, for which the definition runs."""
    return {
        name: value.detach().to(torch.complex128 if value.is_complex() else torch.float64).requires_grad_()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        else value
        for name, value in arguments.items()
    }


def outputs_and_gradients(scan: Callable[..., Any], arguments: Arguments) -> dict[str, Tensor]:
    """Return y, final_state and the gradients of a random sum of both, named like the arguments."""
    y, final_state = scan(**arguments, return_final_state=True)
    generator = torch.Generator().manual_seed(1)
    # Rounded to bfloat16 first, so that the weights are equal for every dtype of y.
    weight_y = torch.randn(y.shape, generator=generator).bfloat16().to(y.device, y.dtype)
    loss = (y * weight_y).to(torch.float64).sum()
    parts = torch.view_as_real(final_state) if final_state.is_complex() else final_state
    loss = (
        loss
        + (parts * torch.randn(parts.shape, generator=generator).to(parts.device)).to(torch.float64).sum()
    )
    leaves = {
        name: value for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad
    }
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"y": y.detach(), "final_state": final_state.detach()} | dict(zip(leaves, gradients, strict=True))


def assert_close(actual: dict[str, Tensor], truth: dict[str, Tensor], relative: float) -> None:
    """Assert that each tensor is within `relative` times the largest magnitude of the true one."""
    assert actual.keys() == truth.keys()
    errors = {}
    for name, true in truth.items():
        assert actual[name].shape == true.shape, name
        true = true.to(torch.complex128 if true.is_complex() else torch.float64)
        error = (actual[name].to(true.dtype) - true).abs().max() if true.numel() else torch.zeros(())
        scale = true.abs().max() if true.numel() else torch.ones(())
        errors[name] = float(error / scale.clamp_min(1e-30))
    assert all(error <= relative for error in errors.values()), errors
