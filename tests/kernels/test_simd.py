"""Vectors of sixteen: accuracy of their functions, and bounds of their memory accesses."""

from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from kernels import simd
from kernels.simd import COMPLEX, LANES, REAL

FUNCTIONS = {
    "exp2": (simd.exp2, np.exp2, (-126, 127)),
    "exp": (simd.exp, np.exp, (-87, 88)),
    "sigmoid": (simd.sigmoid, lambda value: 1 / (1 + np.exp(-value)), (-86, 100)),
    "softplus": (simd.softplus, lambda value: np.logaddexp(0, value), (-86, 100)),
}


def apply(function: Callable, values: np.ndarray) -> np.ndarray:
    """Return the function of each value; the number of values is a multiple of LANES."""

    @njit
    def loop(values, results):  # type: ignore[no-untyped-def]
        for index in range(0, values.size, LANES):
            value = simd.load(values.ctypes.data, index)
            simd.store(results.ctypes.data, index, function(value))

    results = np.empty_like(values)
    loop(values, results)
    return results


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_within_two_units_in_the_last_place(name: str) -> None:
    function, truth, bounds = FUNCTIONS[name]
    values = np.linspace(*bounds, 1 << 16, dtype=np.float32)
    expected = truth(values.astype(np.float64))
    assert np.max(np.abs(apply(function, values) / expected - 1)) < 2 * 2**-23


@pytest.mark.parametrize("part", [0, 1])
def test_cosine_and_sine_are_within_a_unit_of_one(part: int) -> None:
    @njit
    def select_part(angle):  # type: ignore[no-untyped-def]
        return simd.cosine_and_sine(angle)[part]

    angles = np.concatenate([np.linspace(-1e4, 1e4, 1 << 16), np.linspace(-1, 1, 1 << 12)]).astype(np.float32)
    truth = (np.cos, np.sin)[part](angles.astype(np.float64))
    assert np.max(np.abs(apply(select_part, angles) - truth)) < 2**-23


def test_exponentials_vanish_overflow_and_keep_nan() -> None:
    values = np.array([-np.inf, -1e30, -127, -90, 0, 90, 128, 1e30, np.inf, np.nan] + [0] * 6, np.float32)
    assert apply(simd.exp, values)[:4].tolist() == [0] * 4
    assert apply(simd.exp2, values)[4] == apply(simd.exp, values)[4] == 1
    assert apply(simd.exp, values)[6:9].tolist() == apply(simd.exp2, values)[6:9].tolist() == [np.inf] * 3
    assert np.isnan(apply(simd.exp, values)[9])
    assert np.isnan(apply(simd.softplus, values)[9])


@pytest.mark.parametrize("kind", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("count", [1, 5, 8, 15, 16])
def test_partial_loads_and_stores_stay_in_bounds(kind: simd.Kind, count: int) -> None:
    @njit
    def double(source, target, count, kind):  # type: ignore[no-untyped-def]
        value = simd.load_adjacent_states(source.ctypes.data, 1, count, kind)
        simd.store_adjacent_states(target.ctypes.data, 1, value + value, count)
        simd.write_total(target.ctypes.data, target.size - kind_parts, value)

    kind_parts = kind.parts
    size = count * kind.parts
    source = np.arange(2 * LANES + 8, dtype=np.float32)
    target = np.full_like(source, -1)
    double(source, target, count, kind)
    assert target[1 : 1 + size].tolist() == (2 * source[1 : 1 + size]).tolist()
    untouched = [0, *range(1 + size, target.size - kind.parts)]
    assert target[untouched].tolist() == [-1] * len(untouched)
    sums = source[1 : 1 + size].reshape(count, kind.parts).sum(0)
    assert target[target.size - kind.parts :].tolist() == sums.tolist()


def test_complex_exponential_and_product() -> None:
    @njit
    def decay(source, target, kind):  # type: ignore[no-untyped-def]
        A = simd.load_states(source.ctypes.data, 0, LANES, kind)
        dt = simd.load(source.ctypes.data, 2 * LANES)
        value = simd.multiply_add(simd.exponential(A, dt), simd.conjugate(A), A * dt)
        simd.store_states(target.ctypes.data, 0, LANES, value)

    source = np.random.default_rng(0).normal(size=3 * LANES).astype(np.float32)
    target = np.empty(2 * LANES, np.float32)
    decay(source, target, COMPLEX)
    A = source[:LANES] + 1j * source[LANES : 2 * LANES].astype(np.float64)
    dt = source[2 * LANES :].astype(np.float64)
    expected = np.exp(dt * A) * A.conj() + A * dt
    np.testing.assert_allclose(target[:LANES] + 1j * target[LANES:], expected, rtol=1e-6)
