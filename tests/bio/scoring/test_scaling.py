"""The fit recovers a power law; its interval has the stated coverage."""

import math

import numpy as np
import pytest

from bio.scoring.scaling import fit_power_law

PARAMETERS = [0.26e6, 0.68e6, 1.4e6, 3.5e6, 7e6, 19e6, 41e6]


def test_an_exact_law_is_found() -> None:
    law = fit_power_law(PARAMETERS, [3.0 * size**-0.07 for size in PARAMETERS])
    assert law.scale == pytest.approx(3.0)
    assert list(law[1:]) == pytest.approx([0.07, 0.07, 0.07])
    assert law.loss(1e6) == pytest.approx(3.0 * 1e6**-0.07)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = np.exp(0.01 * random.standard_normal(len(PARAMETERS)))
        law = fit_power_law(PARAMETERS, 3.0 * np.array(PARAMETERS) ** -0.07 * noise)
        assert law.low < law.exponent < law.high
        held += law.low < 0.07 < law.high
    assert 0.92 < held / 400 < 0.98


def test_two_points_have_a_law_and_no_interval() -> None:
    law = fit_power_law([1e6, 1e7], [1.3, 1.2])
    assert law.loss(1e7) == pytest.approx(1.2)
    assert math.isnan(law.low)
    assert math.isnan(law.high)


@pytest.mark.parametrize(("parameters", "losses"), [([1e6], [1.0]), ([1e6, 1e6], [1.0, 1.1])])
def test_one_size_has_no_law(parameters: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="two different"):
        fit_power_law(parameters, losses)


def test_a_loss_of_zero_has_no_law() -> None:
    with pytest.raises(ValueError, match="above 0"):
        fit_power_law([1e6, 1e7], [1.0, 0.0])
