"""Sampling of tokens from logits: temperature, top-k, top-p, min-p and counter-based noise.

The noise of a token is a hash of (seed, sample, position, token). Sample k is the same in any batch, and a
resumed run equals an uninterrupted one.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.random import GOLDEN_GAMMA, hash_bits, logical_shift_right, random_words


@dataclass(frozen=True)
class SamplingConfig:
    """Temperature and filters of the next token; each filter applies to the tokens that the last one kept.

    top_p is nucleus sampling (Holtzman et al. 2020); min_p is from Nguyen et al. 2024. Tokens tied with the
    last of the top k are kept too. Raises ValueError for a number out of range.
    """

    temperature: float = field(
        default=1.0, metadata={"help": "divisor of the logits; 0: the most probable token"}
    )
    top_k: int | None = field(
        default=None, metadata={"help": "number of most probable tokens to sample from; null: all"}
    )
    top_p: float = field(
        default=1.0, metadata={"help": "total probability of the most probable tokens to sample from; 1: all"}
    )
    min_p: float = field(
        default=0.0, metadata={"help": "minimum probability of a token, as a fraction of the largest one"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be finite and at least 0.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or None for all tokens.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must be between 0 and 1.")


def sample(
    logits: Tensor,
    keys: Tensor,
    position: int | Tensor,
    config: SamplingConfig,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample a token for each row of logits.

    logits: (batch, vocabulary). keys: (batch,), from sample_keys.
    position: index of the token in its sequence, an int or a scalar int64 tensor, which a CUDA graph can
        read.
    allowed: (vocabulary,) bool, the tokens that may be sampled; None allows all.
    Returns tokens (batch,) int64 and their log-probabilities (batch,) float32 in nats, under the given
    logits: before temperature, filters and the restriction to allowed tokens.
    """
    logits = logits.float()
    scores = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    if config.temperature > 0:
        scores = scores - scores.amax(dim=-1, keepdim=True)
        scores = _filter(scores / config.temperature, config)
        scores = scores + gumbel_noise(keys, position, scores.shape[-1])
    tokens = scores.argmax(dim=-1)
    log_probabilities = logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    return tokens, log_probabilities


def _filter(scores: Tensor, config: SamplingConfig) -> Tensor:
    """Set scores (batch, vocabulary) to minus infinity for tokens that a filter removes."""
    if config.top_k is not None and config.top_k < scores.shape[-1]:
        kth = scores.topk(config.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if config.top_p < 1:
        descending = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        surplus = descending.values.cumsum(dim=-1) - descending.values >= config.top_p
        scores = scores.masked_fill(
            torch.empty_like(surplus).scatter_(-1, descending.indices, surplus), -torch.inf
        )
    if config.min_p > 0:
        probabilities = scores.softmax(dim=-1)
        floor = config.min_p * probabilities.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(probabilities < floor, -torch.inf)
    return scores


def sample_keys(seed: int, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the random streams of samples first, ..., first + count - 1 of a seed: (count,) int64."""
    words = random_words(seed, 0, np.arange(first, first + count))
    return torch.from_numpy(words.view(np.int64)).to(device)


def gumbel_noise(keys: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Return standard Gumbel noise (batch, vocabulary) float32, a function of key, position and token alone.

    The argmax of logits + Gumbel noise is a sample from their softmax (Gumbel 1954).
    """
    positions = torch.zeros_like(keys) + position
    tokens = torch.arange(vocabulary, device=keys.device)
    bits = _hash(_hash(keys, positions)[:, None], tokens)
    # 23 bits + 1/2 are exact in float32 and never give 0 or 1, where the logarithms are infinite
    uniform = (logical_shift_right(bits, 41).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _hash(key: Tensor, index: Tensor) -> Tensor:
    """Return element `index` of the SplitMix64 stream of `key`, int64."""
    return hash_bits(key + (index + 1) * GOLDEN_GAMMA)
