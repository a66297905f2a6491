"""Sampling of sequences: the prompt in one parallel pass, then one step per token."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.decoding.engines import fastest_engine
from core.decoding.sampling import SamplingConfig, sample, sample_keys
from core.decoding.state import DecodeState, Model, state_tensors, with_position
from core.models.finite import require_finite

STREAM_STEPS = (
    16  # tokens per call in `stream`: enough to spread the cost of a launch, few enough to hear at once
)


class Samples(NamedTuple):
    """Whole samples.

    tokens: (count, length) int64. log_likelihood: (count,) float64, in nats under the model's softmax.
    """

    tokens: Tensor
    log_likelihood: Tensor


class Continuation(NamedTuple):
    """The next tokens of all samples.

    tokens: (count, steps) int64. log_probability: (count, steps) float32, in nats under the model's softmax.
    """

    tokens: Tensor
    log_probability: Tensor


class Decoder:
    """A batch of samples of one model. Its state can be saved between any two calls.

    count: number of samples in the batch.
    config: temperature and filters; None samples from the model's distribution.
    seed, first_sample: sample k of a seed is the same in any batch; this decoder has samples first_sample,
        ..., first_sample + count - 1.
    allowed: (symbols,) int64, the tokens that may be sampled; None allows the model's whole vocabulary.

    The fastest engine that supports the model on its device runs the steps (core/decoding/engines.py). The
    choice depends on the model and the device alone, never on the count. The engine owns the state and the
    position.

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
        logits = torch.zeros(count, len(mask), device=device)
        self._engine.load(DecodeState(logits, model.initial_state(count), 0), self._keys)

    @property
    def position(self) -> int:
        """Number of tokens of each sample so far, prompts included."""
        return self._engine.position

    @torch.no_grad()
    def prefill(self, prompt: Tensor) -> None:
        """Read a prompt in one parallel pass.

        prompt: (length,) for all samples, or (count, length), any integer dtype.
        Each distinct prompt is read by itself, so the result does not depend on the batch.
        Raises ValueError for an empty prompt, another shape, or a token outside the vocabulary.
        """
        self.check_prompt(prompt)
        prompts = torch.atleast_2d(prompt.to(self._keys.device)).long()
        before = self._engine.state()
        if before.position:
            rows = [self._read(prompts[row % len(prompts)], before.row(row)) for row in range(self.count)]
            index = torch.arange(self.count)
        else:
            distinct, index = prompts.unique(dim=0, return_inverse=True)
            rows = [self._read(each, before.row(0)) for each in distinct]
            index = index.expand(self.count)
        self._engine.load(DecodeState.stack(rows, index), self._keys)

    @torch.no_grad()
    def advance(self, steps: int) -> Continuation:
        """Sample `steps` more tokens of each sample.

        Without a prompt, the first token is sampled uniformly from the allowed ones, and its log-probability
        is 0. Raises ValueError for steps below 1, and for logits that are not finite: no token is returned
        then.
        """
        _check_positive("steps", steps)
        if self.position:
            start = self.position
            continuation = Continuation(*self._engine.advance(steps))
            require_finite(continuation.log_probability, "logits", start)
            return continuation
        first = self._first_tokens()
        first_step = Continuation(first[:, None], torch.zeros(self.count, 1, device=first.device))
        if steps == 1:
            return first_step
        parts = zip(first_step, self.advance(steps - 1), strict=True)
        return Continuation(*(torch.cat(pair, dim=1) for pair in parts))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the decoder state by name: all that the next tokens depend on besides model and options.

        position: int64, tokens so far. keys: (count,) int64, random streams of the samples. logits: (count,
        padded vocabulary), of the next token. state.*: tensors of the model's state, (count, ...) each.
        A decoder of the same model, count and configuration that loads it samples the same tokens bit by bit.
        """
        logits, model_state, position = self._engine.state()
        parts = {f"state.{index}": part.clone() for index, part in enumerate(state_tensors(model_state))}
        return parts | {
            "position": torch.tensor(position),
            "keys": self._keys.clone(),
            "logits": logits.clone(),
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Continue from a saved state_dict. Raises ValueError if it is from another model or count."""
        present = self.state_dict()
        self._check_saved(saved, present)
        copies = {name: tensor.to(self._keys.device, copy=True) for name, tensor in saved.items()}
        parts = (copies[name] for name in present if name.startswith("state."))
        model_state = tree_map_only(Tensor, lambda _: next(parts), self.model.initial_state(1))
        position = int(saved["position"])
        self._keys = copies["keys"]
        state = DecodeState(copies["logits"], with_position(model_state, position), position)
        self._engine.load(state, self._keys)

    def check_prompt(self, prompt: Tensor) -> None:
        """Raise ValueError for a prompt that `prefill` rejects."""
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
                raise ValueError(f"The saved state has no {name}; it is from a decoder of another model.")
            if saved[name].shape != tensor.shape:
                raise ValueError(
                    f"The saved {name} has the shape {tuple(saved[name].shape)}; this decoder needs "
                    f"{tuple(tensor.shape)}. Model and count must be the same in both decoders."
                )
        for name in saved.keys() - present.keys():
            raise ValueError(
                f"The saved state has {name}, which this decoder has not; it is from another model."
            )

    def _first_tokens(self) -> Tensor:
        """Sample a token (count,) for each sample uniformly from the allowed ones, and read it."""
        uniform = torch.zeros(self.count, len(self._allowed), device=self._keys.device)
        tokens, _ = sample(uniform, self._keys, 0, SamplingConfig(), self._allowed)
        self.prefill(tokens[:, None])
        return tokens

    def _read(self, prompt: Tensor, before: DecodeState) -> DecodeState:
        """Return the state of one sample, (1, ...), after it reads the prompt (length,)."""
        logits, model_state = self.model(prompt[None], before.model_state)
        return DecodeState(logits[:, -1].float(), model_state, before.position + len(prompt))


def generate(
    model: Model,
    count: int,
    length: int,
    prompt: Tensor | None = None,
    config: SamplingConfig | None = None,
    seed: int = 0,
    first_sample: int = 0,
    allowed: Tensor | None = None,
) -> Samples:
    """Sample `count` sequences of `length` tokens; arguments and errors as in `stream`."""
    decoder = Decoder(model, count, config, seed, first_sample, allowed)
    _prepare(decoder, length, prompt)
    tokens, log_probability = decoder.advance(length)
    return Samples(tokens, log_probability.double().sum(dim=1))


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
    """Yield the next token of each sample and its log-probability, (count,) each, `length` times.

    prompt: (prompt length,) for all samples, or (count, prompt length). Without a prompt, the first token is
        sampled uniformly from the allowed ones, and its log-probability is 0.
    The other arguments are those of Decoder.

    Raises ValueError for a count or length below 1, an empty prompt, or a token outside the vocabulary.
    """
    decoder = Decoder(model, count, config, seed, first_sample, allowed)
    _prepare(decoder, length, prompt)
    return _steps(decoder, length)


def _prepare(decoder: Decoder, length: int, prompt: Tensor | None) -> None:
    _check_positive("length", length)
    if prompt is not None:
        decoder.prefill(prompt)


def _steps(decoder: Decoder, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, length, STREAM_STEPS):
        tokens, log_probability = decoder.advance(min(STREAM_STEPS, length - start))
        yield from zip(tokens.unbind(1), log_probability.unbind(1), strict=True)


def _check_positive(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be at least 1.")


def _check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    if tokens.numel() == 0:
        raise ValueError(f"{name} is empty; it must hold at least one token.")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"{name} holds tokens from {tokens.min()} to {tokens.max()}; "
            f"the model's vocabulary is 0 to {vocab_size - 1}."
        )
