"""Sampling sequences: the prompt in one parallel pass, then a step a token."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.model import SequenceModel
from core.multiscale import MultiscaleModel
from core.sampling import SamplingConfig, sample, sample_keys


class Generated(NamedTuple):
    """tokens: (count, length) int64. log_likelihood: (count,) float64, nats under the model's own softmax."""

    tokens: Tensor
    log_likelihood: Tensor


def generate(
    model: SequenceModel | MultiscaleModel,
    count: int,
    length: int,
    prompt: Tensor | None = None,
    config: SamplingConfig | None = None,
    seed: int = 0,
    first_sample: int = 0,
    allowed: Tensor | None = None,
) -> Generated:
    """Sample `count` sequences of `length` tokens; arguments and errors as in stream, which this collects."""
    steps = list(stream(model, count, length, prompt, config, seed, first_sample, allowed))
    tokens = torch.stack([tokens for tokens, _ in steps], dim=1)
    return Generated(tokens, torch.stack([log.double() for _, log in steps], dim=1).sum(dim=1))


def stream(
    model: SequenceModel | MultiscaleModel,
    count: int,
    length: int,
    prompt: Tensor | None = None,
    config: SamplingConfig | None = None,
    seed: int = 0,
    first_sample: int = 0,
    allowed: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, `length` times, the next token of each sample and its log-probability: two (count,) tensors.

    prompt: (prompt length,) for all samples, or (count, prompt length). Without one the first token is drawn
        uniformly from the allowed ones, and its log-probability is 0.
    config: temperature and filters; None draws from the model's distribution.
    seed, first_sample: sample k of a seed is the same in whatever batch it is drawn; this call draws samples
        first_sample, ..., first_sample + count - 1.
    allowed: (symbols,) int64, the tokens that may be drawn; None allows the model's whole vocabulary.

    Raises ValueError for a count or length below 1, an empty prompt, or a token outside the vocabulary.
    """
    vocab_size = model.config.vocab_size
    device = model.embedding.weight.device
    for name, number in (("count", count), ("length", length)):
        if number < 1:
            raise ValueError(f"{name} is {number}; there must be at least 1.")
    if allowed is None:
        allowed = torch.arange(vocab_size)
    _check_tokens("allowed", allowed, vocab_size)
    if prompt is not None:
        _check_tokens("prompt", prompt, vocab_size)
        if prompt.shape[:-1] not in ((), (count,)):
            raise ValueError(
                f"prompt has the shape {tuple(prompt.shape)}; it must be (length,), or ({count}, length), "
                "one for each sample."
            )
    keys = sample_keys(seed, first_sample, count, device)
    mask = torch.zeros(model.config.padded_vocab_size, dtype=torch.bool, device=device)
    mask[allowed.to(device).long()] = True
    return _stream(model, prompt, keys, length, config or SamplingConfig(), mask)


@torch.no_grad()
def _stream(
    model: SequenceModel | MultiscaleModel,
    prompt: Tensor | None,
    keys: Tensor,
    length: int,
    config: SamplingConfig,
    allowed: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    count = len(keys)
    if prompt is None:
        equal = torch.zeros(count, len(allowed), device=keys.device)
        first, _ = sample(equal, keys, 0, SamplingConfig(), allowed)
        yield first, equal[:, 0]
        prompt, length = first[:, None], length - 1
    logits, state = _prefill(model, prompt.to(keys.device), count)
    for position in range(prompt.shape[-1], prompt.shape[-1] + length):
        token, log_probability = sample(logits, keys, position, config, allowed)
        yield token, log_probability
        logits, state = model.step(token, state)


def _prefill(model: SequenceModel | MultiscaleModel, prompt: Tensor, count: int) -> tuple[Tensor, Any]:
    """The logits (count, padded vocabulary) and the state after the prompt; a shared prompt is read once."""
    prompts = torch.atleast_2d(prompt)
    logits, state = model(prompts, model.initial_state(len(prompts)))
    copies = count // len(prompts)
    state = tree_map_only(Tensor, lambda part: part.repeat_interleave(copies, 0), state)
    return logits[:, -1].repeat_interleave(copies, 0), state


def _check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    if tokens.numel() == 0:
        raise ValueError(f"{name} is empty; it must hold at least one token.")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"{name} holds tokens from {tokens.min()} to {tokens.max()}; "
            f"the model knows 0 to {vocab_size - 1}."
        )
