"""From logits to tokens: temperature, top-k, top-p, min-p, and randomness that is counted, not consumed.

The noise of a token is a hash of (seed, sample, position, token): sample k is the same in any batch, and a
run that is resumed at a position continues as if it had not stopped.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.random import random_words

GOLDEN = 0x9E3779B97F4A7C15 - 2**64


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn; the filters apply in this order, each to what the one before left.

    top_p is the nucleus of Holtzman et al. 2020, min_p that of Nguyen et al. 2024. Tokens tied with the last
    of the top k are kept too. Raises ValueError for a number out of its range.
    """

    temperature: float = field(
        default=1.0, metadata={"help": "divides the logits; 0 takes the most probable token"}
    )
    top_k: int | None = field(default=None, metadata={"help": "keep the k most probable tokens; null: all"})
    top_p: float = field(
        default=1.0, metadata={"help": "keep the fewest tokens that together have this probability"}
    )
    min_p: float = field(
        default=0.0, metadata={"help": "keep tokens at least this fraction as probable as the first"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be finite and at least 0.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or None for every token.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must lie between 0 and 1.")


def sample(
    logits: Tensor,
    keys: Tensor,
    position: int | Tensor,
    config: SamplingConfig,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of logits.

    logits: (batch, vocabulary). keys: (batch,), from sample_keys. position: of the token in its sequence, a
        number or an int64 tensor of no axes, which a CUDA graph can read.
    allowed: (vocabulary,) bool, the tokens that may be drawn; None allows all.
    Returns tokens (batch,) int64 and their log-probabilities (batch,) float32, in nats, under the logits as
    given: before temperature, filters and the restriction to allowed tokens.
    """
    logits = logits.float()
    scores = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    if config.temperature > 0:
        scores = scores - scores.amax(dim=-1, keepdim=True)
        scores = _filtered(scores / config.temperature, config)
        scores = scores + gumbel_noise(keys, position, scores.shape[-1])
    tokens = scores.argmax(dim=-1)
    log_probabilities = logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    return tokens, log_probabilities


def _filtered(scores: Tensor, config: SamplingConfig) -> Tensor:
    """scores (batch, vocabulary) with minus infinity where a filter forbids the token."""
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
    """The random streams of samples first, ..., first + count - 1 of a seed: (count,) int64."""
    words = random_words(seed, 0, np.arange(first, first + count))
    return torch.from_numpy(words.view(np.int64)).to(device)


def gumbel_noise(keys: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise (batch, vocabulary) float32, a function of key, position and token alone.

    The index of the largest of logits + Gumbel noise is a draw from their softmax (Gumbel 1954).
    """
    positions = torch.zeros_like(keys) + position
    tokens = torch.arange(vocabulary, device=keys.device)
    bits = _hash(_hash(keys, positions)[:, None], tokens)
    # 23 bits and a half are exact in float32 and never reach 0 or 1, where the logarithms would be infinite.
    uniform = (_shifted_right(bits, 41).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _hash(key: Tensor, index: Tensor) -> Tensor:
    """Element `index` of the SplitMix64 stream of `key` (Steele et al. 2014): int64 that wraps around."""
    bits = key + (index + 1) * GOLDEN
    bits = (bits ^ _shifted_right(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shifted_right(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shifted_right(bits, 31)


def _shifted_right(bits: Tensor, places: int) -> Tensor:
    """A logical shift, which torch has only for unsigned numbers."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
