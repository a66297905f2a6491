"""Losses use a softmax over A, C, G, T only; sums of losses keep their identities."""

import math

import numpy as np
import pytest
import torch

from bio.genome.vocabulary import ENCODE, A, T
from bio.scoring.likelihood import Score, base_losses
from bio.windows.dataset import NOT_A_TARGET, inputs_and_targets
from core.models.sequence import SequenceModel, SequenceModelConfig


def model_of(**options: object) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(SequenceModelConfig(**({"vocab_size": 12, "d_model": 16, "n_layer": 2} | options)))
    with torch.no_grad():  # as initialised, every base is all but equally likely
        model.embedding.weight.mul_(30)
    return model.eval()


def packed_of(*sequences: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([ENCODE[np.frombuffer(text.encode(), np.uint8)] for text in sequences]))


@torch.no_grad()
def test_softmax_is_over_the_bases_alone() -> None:
    model = model_of()
    inputs, targets = inputs_and_targets(packed_of("ACGTNACGaT", "NNGATTACAc"))
    losses, _ = base_losses(model, inputs, targets, model.initial_state(2))
    logits = model(inputs).double()
    for (row, position), target in np.ndenumerate(targets.numpy()):
        if target == NOT_A_TARGET:
            assert losses[row, position] == 0
        else:
            bases = logits[row, position, A : T + 1].exp()
            expected = math.log(bases.sum()) - math.log(bases[target - A])
            assert losses[row, position].item() == pytest.approx(expected, abs=1e-5)
    assert (targets == NOT_A_TARGET).sum() == 2


@torch.no_grad()
def test_under_bf16_the_head_stays_fp32() -> None:
    model = model_of()
    inputs, targets = inputs_and_targets(packed_of("ACGTNACGaT"))
    exact, _ = base_losses(model, inputs, targets, model.initial_state(1))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = base_losses(model, inputs, targets, model.initial_state(1))
        assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float())
    torch.testing.assert_close(rounded, exact, atol=0.2, rtol=0.1)


def test_sums_of_losses() -> None:
    score = Score(2 * math.log(2), 1) + Score(0.0, 1)
    assert score == Score(2 * math.log(2), 2)
    assert score.loss == pytest.approx(math.log(2))
    assert score.bits_per_base == pytest.approx(1)
    assert score.perplexity == pytest.approx(2)


def test_nothing_scored_is_not_a_number_and_divergence_is_infinite() -> None:
    nothing = Score(0.0, 0)
    assert all(math.isnan(value) for value in (nothing.loss, nothing.bits_per_base, nothing.perplexity))
    assert Score(1e4, 1).perplexity == math.inf
