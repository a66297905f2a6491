"""Sixteen fp32 numbers, or complex ones, as one value in functions that numba compiles for the CPU."""

from kernels.lanes.functions import cosine_and_sine, exp, exp2, sigmoid, softplus
from kernels.lanes.states import (
    COMPLEX,
    REAL,
    Kind,
    combine,
    conjugate,
    exponential,
    fill_states,
    load_states,
    multiply_add,
    real,
    spread_state,
    store_states,
    write_total,
)
from kernels.lanes.vector import LANES, load, read, splat, store, total, write

__all__ = [
    "COMPLEX",
    "LANES",
    "REAL",
    "Kind",
    "combine",
    "conjugate",
    "cosine_and_sine",
    "exp",
    "exp2",
    "exponential",
    "fill_states",
    "load",
    "load_states",
    "multiply_add",
    "read",
    "real",
    "sigmoid",
    "softplus",
    "splat",
    "spread_state",
    "store",
    "store_states",
    "total",
    "write",
    "write_total",
]
