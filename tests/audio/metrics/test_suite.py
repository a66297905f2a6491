"""Suite: equals its functions in both modes, with intervals and with notes for few clips."""

import pytest
import torch

from audio.metrics.frechet import fit_gaussian, frechet_distance
from audio.metrics.inception import am_score, inception_score, modified_inception_score
from audio.metrics.predictions import Predictions
from audio.metrics.published import published_inception_score, published_modified_inception_score
from audio.metrics.suite import Suite
from tests.audio.metrics.cases import confident

CLASSES = ("a", "b", "c")
CPU = torch.device("cpu")


def predictions(counts: list[int], seed: int, features: int = 6) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(sum(counts), features, generator=generator)
    return Predictions(clips, confident(counts, seed=seed))


@pytest.fixture(scope="module")
def train() -> Predictions:
    return predictions([30, 30, 30], 0)


@pytest.fixture(scope="module")
def suite(train: Predictions) -> Suite:
    return Suite(train, CLASSES, CPU)


def test_every_metric_is_its_function(train: Predictions, suite: Suite) -> None:
    clips = predictions([20, 40, 0], 1)
    values = {name: interval.value for name, interval in suite.measure(clips).items()}
    assert values["fid"] == pytest.approx(frechet_distance(fit_gaussian(train.features), clips.features))
    assert values["is"] == inception_score(clips.log_probabilities)
    assert values["mis"] == modified_inception_score(clips.log_probabilities)
    assert values["am"] == am_score(train.log_probabilities, clips.log_probabilities)
    assert (values["share_a"], values["share_b"], values["share_c"]) == (1 / 3, 2 / 3, 0)
    assert 0 <= values["ndb"] <= 1
    assert values["fid_infinity"] < values["fid"]


def test_paper_mode_changes_two_scores(suite: Suite) -> None:
    clips = predictions([20, 40, 0], 1)
    correct, paper = suite.measure(clips), suite.measure(clips, "paper")
    assert paper["is"].value == published_inception_score(clips.log_probabilities)
    assert paper["mis"].value == published_modified_inception_score(clips.log_probabilities)
    assert {name for name in correct if correct[name] != paper[name]} == {"is", "mis"}


def test_intervals_contain_their_values_and_are_reproducible(suite: Suite) -> None:
    clips = predictions([20, 20, 20], 1)
    first, again = (suite.measure(clips, resamples=5, seed=3) for _ in range(2))
    assert first == again
    for interval in first.values():
        assert interval.low <= interval.value <= interval.high
    assert first["fid"].low < first["fid"].high


def test_the_training_clips_have_distance_zero_to_themselves(train: Predictions, suite: Suite) -> None:
    metrics = suite.measure(train)
    assert metrics["fid"].value == pytest.approx(0, abs=1e-9)
    assert metrics["ndb"].value == 0


def test_few_clips_give_notes(suite: Suite) -> None:
    assert suite.notes(100) == []
    few = predictions([2, 1, 0], 1)
    metrics = suite.measure(few, resamples=2)
    assert "fid_infinity" not in metrics
    rank, extrapolated = suite.notes(3)
    assert "These 3 clips give a covariance of 6 features the rank 2 at most" in rank
    assert "needs more than 13 clips" in extrapolated


def test_few_training_clips_give_notes() -> None:
    suite = Suite(predictions([2, 2, 1], 0), CLASSES, CPU)
    assert "ndb" not in suite.measure(predictions([5, 5, 5], 1))
    notes = " ".join(suite.notes(100))
    assert "The reference's 5 clips" in notes
    assert "that needs 50 training clips" in notes


def test_one_clip_has_no_metrics(suite: Suite) -> None:
    with pytest.raises(ValueError, match="have no covariance"):
        suite.measure(predictions([1, 0, 0], 1))
