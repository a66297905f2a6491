"""Sampling: distribution, filters, and noise that depends on seed, sample, position and token alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor

from core.decoding.sampling import SamplingConfig, gumbel_noise, sample, sample_keys

PROBABILITIES = torch.tensor([0.40, 0.25, 0.20, 0.10, 0.04, 0.01])
LOGITS = PROBABILITIES.log() + 3


def draw(config: SamplingConfig, logits: Tensor = LOGITS, count: int = 30_000, **options: object) -> Tensor:
    """Return how often each token is sampled from one row of logits."""
    keys = sample_keys(0, 0, count)
    tokens, _ = sample(logits.expand(count, -1), keys, 7, config, **options)
    return torch.bincount(tokens, minlength=len(logits))


def assert_follows_softmax(counts: Tensor, logits: Tensor) -> None:
    """Test counts against the softmax by chi-square; tokens expected fewer than 5 times count as one."""
    probabilities = logits.double().softmax(0)
    rare = probabilities * counts.sum() < 5
    counts, probabilities = (
        torch.cat([each[~rare], each[rare].sum(0, keepdim=True)]) for each in (counts, probabilities)
    )
    if not rare.any():
        assert counts[-1] == 0
        counts, probabilities = counts[:-1], probabilities[:-1]
    if len(counts) > 1:
        assert chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue > 0.001


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [6, 256])
def test_tokens_follow_the_softmax(temperature: float, vocabulary: int) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    assert_follows_softmax(draw(SamplingConfig(temperature), logits), logits / temperature)


def test_tokens_follow_the_softmax_over_positions_of_one_sample() -> None:
    key = sample_keys(3, 5, 1)
    tokens = [sample(LOGITS[None], key, position, SamplingConfig())[0] for position in range(5_000)]
    assert_follows_softmax(torch.cat(tokens).bincount(), LOGITS)


def test_noise_is_gumbel_and_its_neighbours_are_independent() -> None:
    noise = torch.stack([gumbel_noise(sample_keys(0, 0, 100), position, 8) for position in range(100)])
    assert kstest(noise.flatten(), "gumbel_r").pvalue > 0.001
    for axis in range(3):
        before, after = noise.narrow(axis, 0, 7), noise.narrow(axis, 1, 7)
        assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1].abs() < 0.06
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_noise_is_finite_at_its_extremes() -> None:
    noise = gumbel_noise(sample_keys(1, 0, 20_000), 0, 256)
    assert noise.isfinite().all()
    assert noise.max() > 12


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (SamplingConfig(top_k=1), 1),
        (SamplingConfig(top_k=3), 3),
        (SamplingConfig(top_k=99), 6),
        (SamplingConfig(top_p=0.01), 1),
        (SamplingConfig(top_p=0.39), 1),
        (SamplingConfig(top_p=0.41), 2),
        (SamplingConfig(top_p=0.70), 3),
        (SamplingConfig(top_p=0.96), 5),
        (SamplingConfig(min_p=0.24), 4),
        (SamplingConfig(min_p=0.26), 3),
        (SamplingConfig(min_p=1.0), 1),
        (SamplingConfig(temperature=0.5, min_p=0.24), 3),
        (SamplingConfig(top_k=4, top_p=0.9, min_p=0.6), 2),
    ],
)
def test_filters_keep_the_most_probable_and_their_proportions(config: SamplingConfig, count: int) -> None:
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    counts = draw(config, LOGITS[order])[order.argsort()]
    assert counts[count:].sum() == 0
    assert_follows_softmax(counts[:count], LOGITS[:count] / config.temperature)


def test_top_k_keeps_ties() -> None:
    assert (draw(SamplingConfig(top_k=2), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])) > 0).tolist() == [
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(0.0), SamplingConfig(top_p=0.5)])
def test_only_allowed_tokens_are_sampled(config: SamplingConfig) -> None:
    allowed = torch.tensor([False, False, True, True, False, True])
    counts = draw(config, allowed=allowed)
    assert counts[~allowed].sum() == 0
    if config == SamplingConfig():
        assert_follows_softmax(counts[allowed], LOGITS[allowed])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(-(2**63), 2**63 - 1), first=st.integers(0, 10**9), position=st.integers(0, 2**40))
def test_a_sample_is_the_same_in_any_batch(seed: int, first: int, position: int) -> None:
    logits = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    together, log_probabilities = sample(logits, sample_keys(seed, first, 9), position, SamplingConfig())
    for row in (0, 4, 8):
        alone, log_probability = sample(
            logits[row : row + 1], sample_keys(seed, first + row, 1), position, SamplingConfig()
        )
        assert alone == together[row]
        assert log_probability == log_probabilities[row]


def test_seeds_samples_and_positions_differ() -> None:
    logits = torch.zeros(1000, 64)
    draws = [
        sample(logits, sample_keys(seed, first, 1000), position, SamplingConfig())[0]
        for seed, first, position in [(0, 0, 0), (1, 0, 0), (0, 1000, 0), (0, 0, 1)]
    ]
    for index, one in enumerate(draws):
        for other in draws[:index]:
            assert (one == other).float().mean() < 0.05


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-40])
def test_without_temperature_the_most_probable_token_is_sampled(temperature: float) -> None:
    logits = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(temperature, top_p=0.9, min_p=0.1)
    tokens, log_probabilities = sample(logits, sample_keys(0, 0, 50), 0, config)
    assert torch.equal(tokens, logits.argmax(dim=-1))
    torch.testing.assert_close(log_probabilities, logits.log_softmax(dim=-1).amax(dim=-1))


def test_log_probabilities_are_the_models_own() -> None:
    allowed = torch.tensor([True, True, True, True, True, False])
    config = SamplingConfig(temperature=3.0, top_k=4)
    tokens, log_probabilities = sample(LOGITS.expand(100, -1), sample_keys(0, 0, 100), 0, config, allowed)
    torch.testing.assert_close(log_probabilities, PROBABILITIES.log()[tokens])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2.0},
    ],
)
def test_options_out_of_range_are_errors(options: dict) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is"):
        SamplingConfig(**options)
