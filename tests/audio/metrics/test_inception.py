"""Inception scores against analytic values, and the closed form against all pairs."""

import itertools
import math

import pytest
import torch

from audio.metrics.inception import am_score, inception_score, modified_inception_score
from tests.audio.metrics.cases import confident, log_one_hot

BALANCED = log_one_hot(list(range(10)) * 5)


def test_balanced_confident_predictions_score_the_number_of_classes() -> None:
    assert inception_score(BALANCED) == pytest.approx(10)
    assert am_score(BALANCED, BALANCED) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("present", [1, 2, 5])
def test_confident_predictions_of_some_classes_score_their_number(present: int) -> None:
    some = log_one_hot(list(range(present)) * 8)
    assert inception_score(some) == pytest.approx(present)
    assert am_score(some, some) == pytest.approx(0, abs=1e-12)


def test_one_dominant_class_scores_below_the_number_of_classes() -> None:
    shares = torch.tensor([0.5] + [0.5 / 9] * 9)
    dominated = log_one_hot([0] * 90 + list(range(1, 10)) * 10)
    assert inception_score(dominated) == pytest.approx(math.exp(torch.special.entr(shares).sum()), rel=1e-6)


def test_uniform_predictions_score_one_and_am_their_entropy() -> None:
    unsure = torch.full((7, 10), -math.log(10), dtype=torch.float64)
    assert inception_score(unsure) == pytest.approx(1)
    assert modified_inception_score(unsure) == pytest.approx(1)
    assert am_score(BALANCED, unsure) == pytest.approx(math.log(10))


def test_am_is_infinite_for_a_missing_class() -> None:
    missing = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)
    assert am_score(torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(), missing) == math.inf


def test_the_modified_score_is_the_mean_over_all_pairs() -> None:
    log_p = confident([3, 2, 4, 1])
    divergences = [
        (log_p[i].exp() * (log_p[i] - log_p[j])).sum().item()
        for i, j in itertools.product(range(len(log_p)), repeat=2)
    ]
    assert modified_inception_score(log_p) == pytest.approx(math.exp(sum(divergences) / len(divergences)))


def test_the_inception_score_is_the_mean_divergence_from_the_mean() -> None:
    log_p = confident([3, 2, 4, 1])
    mean = log_p.exp().mean(dim=0)
    divergence = (log_p.exp() * (log_p - mean.log())).sum(dim=1).mean().item()
    assert inception_score(log_p) == pytest.approx(math.exp(divergence))


def test_probabilities_may_underflow() -> None:
    log_p = log_one_hot([0, 1, 2], 3, sharpness=1e5)
    assert (log_p.exp() == 0).any()
    assert inception_score(log_p) == pytest.approx(3)
    assert modified_inception_score(log_p) == math.inf  # exp(10,000) for a clip of another class


@pytest.mark.parametrize(
    ("log_p", "message"),
    [
        (torch.zeros(2, 2), "must be float64"),
        (torch.zeros(0, 2, dtype=torch.float64), "no clips"),
        (torch.full((2, 2), torch.nan, dtype=torch.float64), "NaN"),
        (torch.full((2, 2), 0.5, dtype=torch.float64), "exceed 0"),
    ],
)
def test_invalid_log_probabilities_are_rejected(log_p: torch.Tensor, message: str) -> None:
    for score in (inception_score, modified_inception_score, lambda p: am_score(BALANCED, p)):
        with pytest.raises(ValueError, match=message):
            score(log_p)
