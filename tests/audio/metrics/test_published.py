"""Published scores: published behaviour, its faults, and agreement with the correct scores."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from audio.metrics.inception import inception_score, modified_inception_score
from audio.metrics.published import published_inception_score, published_modified_inception_score
from tests.audio.metrics.cases import confident


def test_scores_equal_those_of_the_published_steps() -> None:
    """Repeat the published draws from numpy's global generator, one pair at a time."""
    log_p = confident([20, 30, 10])
    p = log_p.exp().numpy()
    np.random.seed(0)
    shuffled = p[np.random.permutation(len(p))]
    first, second = shuffled[: len(p) // 2], shuffled[len(p) // 2 :]
    expected = np.exp(entropy(first, np.repeat(second.mean(axis=0)[None], len(first), axis=0)).mean())
    assert published_inception_score(log_p) == pytest.approx(expected, rel=1e-12)

    np.random.seed(0)
    pairs = [np.random.choice(np.arange(len(p)), size=2, replace=True) for _ in range(10_000)]
    expected = np.exp(np.mean([entropy(p[i], p[j]) for i, j in pairs]))
    assert published_modified_inception_score(log_p) == pytest.approx(expected, rel=1e-9)


def test_the_other_half_cancels_out() -> None:
    """Compare with exp(mean over classes of KL(p(x|c) | uniform over x)) of the shuffled first half."""
    log_p = confident([40, 10, 50])
    half = log_p[np.random.RandomState(0).permutation(100)[:50]].exp()
    by_class = half / half.sum(dim=0)
    divergence = (by_class * (by_class * 50).log()).sum(dim=0).mean()
    assert published_inception_score(log_p) == pytest.approx(divergence.exp().item())


def test_both_agree_for_balanced_classes() -> None:
    balanced = confident([500] * 10)
    assert published_inception_score(balanced) == pytest.approx(inception_score(balanced), rel=0.01)


def test_the_fault_rewards_one_class_and_exceeds_the_number_of_classes() -> None:
    """Reproduce known values: 1.01 becomes more than 2, and 5.71 more than 10."""
    one, dominated = confident([1000, *[0] * 9]), confident([2500, *[278] * 9])
    assert inception_score(one) < 1.1
    assert published_inception_score(one) > 2
    assert inception_score(dominated) < 6
    assert published_inception_score(dominated) > 10


def test_random_pairs_are_within_noise_of_their_limit() -> None:
    log_p = confident([300] * 10, sharpness=6.0)
    sampled, limit = published_modified_inception_score(log_p), modified_inception_score(log_p)
    assert sampled != limit
    assert math.log(sampled / limit) == pytest.approx(0, abs=0.1)


def test_the_global_generator_is_unchanged() -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    published_inception_score(confident([5, 5]))
    published_modified_inception_score(confident([5, 5]))
    assert np.random.random() == expected
    assert torch.isfinite(confident([5, 5])).all()
