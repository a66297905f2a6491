"""generate and stream: tokens follow forward's distribution for any batch, prompt or call."""

import pytest
import torch
from scipy.stats import chisquare

from core.decoding.decoder import generate, stream
from core.decoding.sampling import SamplingConfig
from core.models.sequence import SequenceModel, SequenceModelConfig


def model_of(**options: object) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(SequenceModelConfig(**({"vocab_size": 12, "d_model": 16, "n_layer": 2} | options)))
    model.embedding.weight.data *= 10
    return model


PROMPT = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)


@pytest.mark.parametrize("is_complex", [False, True])
def test_log_likelihood_is_that_of_forward(is_complex: bool) -> None:
    model = model_of(complex=is_complex)
    tokens, log_likelihood = generate(model, 3, 20, PROMPT, SamplingConfig(temperature=2.0))
    whole = torch.cat([PROMPT.expand(3, -1), tokens], dim=1)
    log_probabilities = model(whole[:, :-1]).log_softmax(dim=-1)[:, len(PROMPT) - 1 :]
    expected = log_probabilities.gather(-1, tokens[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(log_likelihood, expected.double(), rtol=1e-5, atol=1e-4)


def test_temperature_zero_follows_the_argmax_of_forward() -> None:
    model, tokens = model_of(), PROMPT[None].long()
    generated = generate(model, 1, 15, PROMPT, SamplingConfig(temperature=0))
    for _ in range(15):
        tokens = torch.cat([tokens, model(tokens)[:, -1, :12].argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(generated.tokens, tokens[:, len(PROMPT) :])


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_a_sample_is_the_same_in_any_batch(prompt: torch.Tensor | None) -> None:
    model = model_of()
    together = generate(model, 5, 12, prompt, seed=4)
    for k in range(5):
        alone = generate(model, 1, 12, prompt, seed=4, first_sample=k)
        assert torch.equal(alone.tokens[0], together.tokens[k])
        torch.testing.assert_close(alone.log_likelihood[0], together.log_likelihood[k], rtol=1e-5, atol=1e-5)
    assert len(together.tokens.unique(dim=0)) == 5
    assert not torch.equal(generate(model, 5, 12, prompt, seed=5).tokens, together.tokens)


def test_tokens_follow_the_softmax_of_forward() -> None:
    model, count = model_of(), 5_000
    probabilities = model(PROMPT[None].long())[0, -1, :12].detach().double().softmax(0)
    frequent = probabilities * count >= 5
    observed = generate(model, count, 1, PROMPT).tokens[:, 0].bincount(minlength=12)
    counts = [*observed[frequent].tolist(), observed[~frequent].sum().item()]
    expected = [*(probabilities[frequent] * count).tolist(), (probabilities[~frequent] * count).sum().item()]
    possible = [index for index, number in enumerate(expected) if number > 0]
    assert frequent.sum() > 3
    assert chisquare([counts[i] for i in possible], [expected[i] for i in possible]).pvalue > 0.001


def test_separate_prompts_equal_shared_prompts() -> None:
    model = model_of()
    prompts = torch.stack([PROMPT, PROMPT.flip(0)])
    together = generate(model, 2, 9, prompts)
    for k in range(2):
        alone = generate(model, 1, 9, prompts[k], first_sample=k)
        assert torch.equal(alone.tokens[0], together.tokens[k])


def test_a_sample_continues_from_its_own_start() -> None:
    model = model_of()
    whole = generate(model, 2, 14, PROMPT)
    start = torch.cat([PROMPT.expand(2, -1), whole.tokens[:, :6]], dim=1)
    assert torch.equal(generate(model, 2, 8, start).tokens, whole.tokens[:, 6:])


def test_stream_yields_what_generate_returns() -> None:
    model = model_of()
    tokens, log_probabilities = zip(*stream(model, 3, 7, PROMPT), strict=True)
    generated = generate(model, 3, 7, PROMPT)
    assert torch.equal(torch.stack(tokens, dim=1), generated.tokens)
    assert torch.equal(torch.stack(log_probabilities).double().sum(0), generated.log_likelihood)
    assert not log_probabilities[0].requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_only_allowed_tokens_appear(prompt: torch.Tensor | None) -> None:
    model = model_of()
    assert generate(model, 50, 20, prompt).tokens.max() == 11
    allowed = torch.tensor([2, 7, 9])
    assert set(generate(model, 20, 10, prompt, allowed=allowed).tokens.unique().tolist()) == {2, 7, 9}


def test_bad_input_is_an_error_before_the_first_token() -> None:
    model = model_of()
    for options, message in [
        ({"count": 0}, "count is 0"),
        ({"length": 0}, "length is 0"),
        ({"prompt": torch.tensor([])}, "prompt is empty"),
        ({"prompt": torch.tensor([1, 12])}, "tokens from 1 to 12; the model's vocabulary is 0 to 11"),
        ({"prompt": torch.zeros(3, 4, dtype=torch.long)}, r"prompt has the shape \(3, 4\)"),
        ({"allowed": torch.tensor([], dtype=torch.long)}, "allowed is empty"),
        ({"allowed": torch.tensor([-1])}, "allowed holds tokens from -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            stream(model, **({"count": 2, "length": 3} | options))


def test_without_a_prompt_the_first_token_is_any_allowed_one() -> None:
    allowed = torch.tensor([1, 4, 5, 10])
    first, log_probability = next(
        iter(stream(model_of(), 2000, 2, config=SamplingConfig(0), allowed=allowed))
    )
    assert chisquare(first.bincount(minlength=12)[allowed]).pvalue > 0.001
    assert (log_probability == 0).all()
