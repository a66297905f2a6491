"""Initial values of the constant parameters of a state space: S4D-Real and S4D-Lin (Gu et al. 2022)."""

import math

import torch
from torch import Tensor

DT_MIN, DT_MAX = 1e-3, 1e-1


def initial_dt_bias(channels: int) -> Tensor:
    """Return (channels,) values whose softplus is log-uniform between DT_MIN and DT_MAX."""
    dt = torch.empty(channels).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp()
    return dt + torch.log(-torch.expm1(-dt))


def initial_a_log(channels: int, d_state: int, paired: bool) -> Tensor:
    """Return log(-Re A): (channels, d_state) of log 1, log 2, ..., or (channels, d_state / 2) of log 1/2.

    paired: d_state / 2 conjugate pairs instead of d_state real states.
    """
    if paired:
        return torch.full((channels, d_state // 2), 0.5).log()
    return torch.arange(1.0, d_state + 1).repeat(channels, 1).log()


def initial_a_imag(channels: int, d_state: int) -> Tensor:
    """Return Im A, (channels, d_state / 2) of 0, 1, 2, ..."""
    return torch.arange(0.0, d_state // 2).repeat(channels, 1)


def initial_b(channels: int, d_state: int, paired: bool) -> Tensor:
    """Return ones: (channels, d_state), or (channels, d_state / 2, 2) of real and imaginary parts."""
    if paired:
        return torch.tensor([1.0, 0.0]).repeat(channels, d_state // 2, 1)
    return torch.ones(channels, d_state)


def initial_c(channels: int, d_state: int, paired: bool) -> Tensor:
    """Return standard normal numbers, real or complex, with the shape of B."""
    if paired:
        return torch.randn(channels, d_state // 2, 2) * 0.5**0.5
    return torch.randn(channels, d_state)
