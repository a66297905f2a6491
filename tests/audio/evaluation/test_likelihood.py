"""Held-out bits count every real sample once and no padding, in whatever chunks and by however many ranks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from audio.data.clips import Clip, Collection
from audio.data.pack import PackedAudio, open_audio
from audio.data.windows import Windows, clip_windows
from audio.evaluation.likelihood import Likelihood, likelihood
from core.models.multiscale import MultiscaleModel, MultiscaleModelConfig
from core.training import World
from tests.audio.conftest import write_clips

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> PackedAudio:
    """7 clips of 30 to 36 samples, of class 0 to 2 in turn."""
    names = [f"{number}.wav" for number in range(7)]
    folder = write_clips(tmp_path_factory.mktemp("clips"), names, 30)
    clips = tuple(Clip(name, "valid", number % 3) for number, name in enumerate(names))
    return open_audio(Collection("noise", folder, clips, ("a", "b", "c")))


@pytest.fixture(scope="module")
def windows(audio: PackedAudio) -> Windows:
    return clip_windows(audio, "valid", 100)


@pytest.fixture(scope="module")
def model() -> MultiscaleModel:
    torch.manual_seed(0)
    return MultiscaleModel(MultiscaleModelConfig(259, d_model=4, n_layer=1, pools=[2, 3], d_state=4))


def by_definition(model: MultiscaleModel, audio: PackedAudio, windows: Windows, first: list[int]) -> float:
    """Return the nats of all samples, clip by clip: sample t given a symbol and the samples before it."""
    total = 0.0
    for start, length, symbol in zip(windows.starts, windows.lengths, first, strict=True):
        codes = torch.from_numpy(np.array(audio.codes[start : start + length])).long()
        inputs = torch.cat([torch.tensor([symbol]), codes[:-1]])
        log_probabilities = model(inputs[None])[0].log_softmax(dim=-1)
        total -= log_probabilities[torch.arange(length), codes].sum().item()
    return total


def assert_same(one: Likelihood, other: Likelihood) -> None:
    assert (one.edges, one.samples) == (other.edges, other.samples)
    assert one.nats == pytest.approx(other.nats, rel=1e-5)


def test_every_real_sample_counts_once(model: MultiscaleModel, audio: PackedAudio, windows: Windows) -> None:
    measured = likelihood(model, audio, windows, ALONE)
    expected = by_definition(model, audio, windows, [128] * len(windows))
    assert sum(measured.nats) == pytest.approx(expected, rel=1e-5)
    assert sum(measured.samples) == windows.lengths.sum()
    assert measured.bits == pytest.approx(expected / windows.lengths.sum() / math.log(2), rel=1e-5)
    assert measured.metrics() == {"loss": measured.loss, "bits_per_sample": measured.bits}


def test_a_conditional_model_gets_the_class(
    model: MultiscaleModel, audio: PackedAudio, windows: Windows
) -> None:
    measured = likelihood(model, audio, windows, ALONE, conditional=True)
    expected = by_definition(model, audio, windows, (256 + windows.labels).tolist())
    assert sum(measured.nats) == pytest.approx(expected, rel=1e-5)


def test_unscored_samples_are_context(model: MultiscaleModel, audio: PackedAudio, windows: Windows) -> None:
    """The last bin begins with sample 32."""
    whole, last = (likelihood(model, audio, windows, ALONE, unscored=first) for first in (0, 31))
    assert whole.edges == last.edges
    assert last.samples == [0] * (len(last.samples) - 1) + [whole.samples[-1]]
    assert last.nats == [0] * (len(last.nats) - 1) + [pytest.approx(whole.nats[-1])]
    with pytest.raises(ValueError, match="more than 36 samples"):
        likelihood(model, audio, windows, ALONE, unscored=36)


@pytest.mark.parametrize("chunk", [1, 7, 36, 72, 10**6])
def test_chunks_change_nothing(
    model: MultiscaleModel, audio: PackedAudio, windows: Windows, chunk: int
) -> None:
    whole = likelihood(model, audio, windows, ALONE)
    assert_same(likelihood(model, audio, windows, ALONE, chunk=chunk), whole)


def test_the_ranks_add_up_to_one_process(
    model: MultiscaleModel, audio: PackedAudio, windows: Windows
) -> None:
    class Rank(World):
        def sum(self, tensor: Tensor) -> Tensor:
            return tensor

    ranks = [likelihood(model, audio, windows, Rank(rank, 3, ALONE.device), chunk=80) for rank in range(3)]
    whole = likelihood(model, audio, windows, ALONE)
    nats = [sum(values) for values in zip(*(rank.nats for rank in ranks), strict=True)]
    samples = [sum(values) for values in zip(*(rank.samples for rank in ranks), strict=True)]
    assert_same(replace(whole, nats=nats, samples=samples), whole)


def test_positions_are_counted_from_one(model: MultiscaleModel, audio: PackedAudio, windows: Windows) -> None:
    rows = likelihood(model, audio, windows, ALONE).rows()
    assert (rows[0]["first"], rows[0]["last"], rows[0]["samples"]) == (1, 1, len(windows))
    assert rows[-1]["last"] == windows.lengths.max()
    assert [row["first"] for row in rows[1:]] == [row["last"] + 1 for row in rows[:-1]]


def test_a_uniform_guess_costs_eight_bits(audio: PackedAudio, windows: Windows) -> None:
    class Uniform(torch.nn.Module):
        def initial_state(self, batch_size: int) -> None:
            return None

        def forward(self, tokens: Tensor, state: None) -> tuple[Tensor, None]:
            return torch.zeros(*tokens.shape, 256), None

    assert likelihood(Uniform(), audio, windows, ALONE).bits == pytest.approx(8.0)
