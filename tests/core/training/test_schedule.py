"""The learning rate rises, falls, and is continuous, whatever the options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.training import TrainingConfig
from core.training.schedule import learning_rate

fractions = st.floats(0.0, 1.0)


def test_the_paper_s_recipe() -> None:
    config = TrainingConfig(learning_rate=8e-3, minimum_learning_rate=1e-5, warmup=0.1)
    assert learning_rate(0.0, config) == 0.0
    assert learning_rate(0.05, config) == pytest.approx(4e-3)
    assert learning_rate(0.1, config) == pytest.approx(8e-3)
    assert learning_rate(0.55, config) == pytest.approx((8e-3 + 1e-5) / 2)
    assert learning_rate(1.0, config) == pytest.approx(1e-5)


@given(warmup=fractions, first=fractions, second=fractions)
def test_it_rises_to_the_peak_and_falls_to_the_floor(warmup: float, first: float, second: float) -> None:
    config = TrainingConfig(learning_rate=1.0, minimum_learning_rate=0.25, warmup=warmup)
    early, late = sorted((first, second))
    rates = learning_rate(early, config), learning_rate(late, config)
    assert all(0.0 <= rate <= 1.0 for rate in rates)
    if late < warmup:
        assert rates[0] <= rates[1]
    if early >= warmup:
        assert rates[0] >= rates[1] >= 0.25 - 1e-12


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_the_peak_is_reached_where_the_warm_up_ends(warmup: float) -> None:
    config = TrainingConfig(learning_rate=1.0, minimum_learning_rate=0.0, warmup=warmup)
    assert learning_rate(warmup, config) == pytest.approx(1.0)
