"""Sampling sequences: the prompt in one parallel pass, then a step a token."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.decoding.engines import Model, Situation, at_position, fastest_engine, tensors
from core.decoding.sampling import SamplingConfig, sample, sample_keys

STREAMED = 16  # tokens that a stream draws at once: a launch's cost spread, and soon enough to be heard


class Generated(NamedTuple):
    """tokens: (count, length) int64. log_likelihood: (count,) float64, nats under the model's own softmax."""

    tokens: Tensor
    log_likelihood: Tensor


class Drawn(NamedTuple):
    """tokens: (count, steps) int64. log_probability: (count, steps) float32, nats under the model itself."""

    tokens: Tensor
    log_probability: Tensor


class Decoder:
    """Draws samples of a model side by side, many tokens a call, and can be saved between any two calls.

    count: samples that are drawn together.
    config: temperature and filters; None draws from the model's distribution.
    seed, first_sample: sample k of a seed is the same in whatever batch it is drawn; this decoder draws
        samples first_sample, ..., first_sample + count - 1.
    allowed: (symbols,) int64, the tokens that may be drawn; None allows the model's whole vocabulary.

    The fastest engine that takes the model on its device runs the steps; see
    core/decoding/engines.py. Which one it
    is depends on the model and the device alone, never on count: so does the order of every sum, and hence
    the bits of every sample.

    Raises ValueError for a count below 1 or a token outside the vocabulary.
    """

    def __init__(
        self,
        model: Model,
        count: int,
        config: SamplingConfig | None = None,
        seed: int = 0,
        first_sample: int = 0,
        allowed: Tensor | None = None,
    ) -> None:
        _check_positive("count", count)
        device = model.embedding.weight.device
        vocab_size = model.config.vocab_size
        allowed = torch.arange(vocab_size) if allowed is None else allowed
        _check_tokens("allowed", allowed, vocab_size)
        mask = torch.zeros(model.config.padded_vocab_size, dtype=torch.bool, device=device)
        mask[allowed.to(device).long()] = True
        self.model, self.count = model, count
        self._allowed = mask
        self._keys = sample_keys(seed, first_sample, count, device)
        self._engine = fastest_engine(model, count, config or SamplingConfig(), mask)
        self._engine.begin(self._beginning(), self._keys)

    @property
    def position(self) -> int:
        """How many tokens each sample has: those of prompts and those drawn."""
        return self._engine.position

    @torch.no_grad()
    def prefill(self, prompt: Tensor) -> None:
        """Read a prompt in one parallel pass: (length,) for all samples, or (count, length), of any integers.

        Each distinct prompt is read by itself, so that what it gives does not depend on the batch.
        Raises ValueError for an empty prompt, another shape, or a token outside the vocabulary.
        """
        self.check_prompt(prompt)
        prompts = torch.atleast_2d(prompt.to(self._keys.device)).long()
        before = self._engine.situation()
        if before.position:
            rows = [self._read(prompts[row % len(prompts)], before.row(row)) for row in range(self.count)]
            place = torch.arange(self.count)
        else:
            distinct, place = prompts.unique(dim=0, return_inverse=True)
            rows = [self._read(each, before.row(0)) for each in distinct]
            place = place.expand(self.count)
        self._engine.begin(Situation.stacked(rows, place), self._keys)

    @torch.no_grad()
    def advance(self, steps: int) -> Drawn:
        """Draw so many more tokens of each sample: two tensors (count, steps).

        Where nothing was read or drawn before, the first token is drawn uniformly from the allowed ones, and
        its log-probability is 0. Raises ValueError for steps below 1.
        """
        _check_positive("steps", steps)
        if self.position:
            return Drawn(*self._engine.advance(steps))
        first = self._first_tokens()
        begun = Drawn(first[:, None], torch.zeros(self.count, 1, device=first.device))
        if steps == 1:
            return begun
        return Drawn(*(torch.cat(parts, dim=1) for parts in zip(begun, self.advance(steps - 1), strict=True)))

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next tokens depend on besides the model and the sampling configuration.

        position: int64, tokens so far. keys: (count,) int64, the samples' random streams. logits: (count,
        padded vocabulary) of the next token. state.*: the tensors of the model's state, each (count, ...).
        A decoder of the same model, count and configuration that loads it draws the same tokens, bit by bit.
        """
        logits, state, position = self._engine.situation()
        parts = {f"state.{index}": part.clone() for index, part in enumerate(tensors(state))}
        return parts | {
            "position": torch.tensor(position),
            "keys": self._keys.clone(),
            "logits": logits.clone(),
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Continue where the decoder was that gave `saved`. Raises ValueError for that of another model."""
        present = self.state_dict()
        self._check_saved(saved, present)
        here = {name: tensor.to(self._keys.device, copy=True) for name, tensor in saved.items()}
        parts = (here[name] for name in present if name.startswith("state."))
        state = tree_map_only(Tensor, lambda _: next(parts), self.model.initial_state(1))
        position = int(saved["position"])
        self._keys = here["keys"]
        self._engine.begin(Situation(here["logits"], at_position(state, position), position), self._keys)

    def check_prompt(self, prompt: Tensor) -> None:
        """Raises ValueError where `prefill` would."""
        _check_tokens("prompt", prompt, self.model.config.vocab_size)
        if prompt.shape[:-1] not in ((), (self.count,)):
            raise ValueError(
                f"prompt has the shape {tuple(prompt.shape)}; it must be (length,), or ({self.count}, "
                "length), one for each sample."
            )

    @staticmethod
    def _check_saved(saved: dict[str, Tensor], present: dict[str, Tensor]) -> None:
        for name, tensor in present.items():
            if name not in saved:
                raise ValueError(f"The saved state has no {name}; it is not that of a decoder of this model.")
            if saved[name].shape != tensor.shape:
                raise ValueError(
                    f"The saved {name} has the shape {tuple(saved[name].shape)}; this decoder's has "
                    f"{tuple(tensor.shape)}. Model and count must be those of the decoder that was saved."
                )
        for name in saved.keys() - present.keys():
            raise ValueError(
                f"The saved state has {name}, which this decoder's has not; it is that of another model."
            )

    def _beginning(self) -> Situation:
        logits = torch.zeros(self.count, len(self._allowed), device=self._keys.device)
        return Situation(logits, self.model.initial_state(self.count), 0)

    def _first_tokens(self) -> Tensor:
        """Draw a token (count,) for each sample from the allowed ones alike, and read it."""
        equal = torch.zeros(self.count, len(self._allowed), device=self._keys.device)
        tokens, _ = sample(equal, self._keys, 0, SamplingConfig(), self._allowed)
        self.prefill(tokens[:, None])
        return tokens

    def _read(self, prompt: Tensor, before: Situation) -> Situation:
        """What one sample (1, ...) is after the prompt (length,)."""
        logits, state = self.model(prompt[None], before.state)
        return Situation(logits[:, -1].float(), state, before.position + len(prompt))


def generate(
    model: Model,
    count: int,
    length: int,
    prompt: Tensor | None = None,
    config: SamplingConfig | None = None,
    seed: int = 0,
    first_sample: int = 0,
    allowed: Tensor | None = None,
) -> Generated:
    """Sample `count` sequences of `length` tokens; arguments and errors as in stream, without the stream."""
    decoder = _prepared(model, count, length, prompt, config, seed, first_sample, allowed)
    tokens, log_probability = decoder.advance(length)
    return Generated(tokens, log_probability.double().sum(dim=1))


def stream(
    model: Model,
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
    The other arguments are those of Decoder.

    Raises ValueError for a count or length below 1, an empty prompt, or a token outside the vocabulary.
    """
    decoder = _prepared(model, count, length, prompt, config, seed, first_sample, allowed)
    return _steps(decoder, length)


def _prepared(model: Model, count: int, length: int, prompt: Tensor | None, *decoding: object) -> Decoder:
    decoder = Decoder(model, count, *decoding)  # type: ignore[arg-type]
    _check_positive("length", length)
    if prompt is not None:
        decoder.prefill(prompt)
    return decoder


def _steps(decoder: Decoder, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, length, STREAMED):
        tokens, log_probability = decoder.advance(min(STREAMED, length - start))
        yield from zip(tokens.unbind(1), log_probability.unbind(1), strict=True)


def _check_positive(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} is {number}; there must be at least 1.")


def _check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    if tokens.numel() == 0:
        raise ValueError(f"{name} is empty; it must hold at least one token.")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"{name} holds tokens from {tokens.min()} to {tokens.max()}; "
            f"the model knows 0 to {vocab_size - 1}."
        )
