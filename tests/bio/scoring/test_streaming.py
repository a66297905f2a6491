"""Streaming in chunks of any size equals one forward pass over each span."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.spans import Spans, as_spans
from bio.genome.vocabulary import SOFT_MASK, A, T
from bio.scoring import streaming
from bio.scoring.likelihood import base_losses
from bio.scoring.streaming import cut_spans, repeat_and_unique, stream_losses
from bio.windows.dataset import inputs_and_targets
from core.models.sequence import SequenceModel
from tests.bio.conftest import MakeGenome, random_bases
from tests.bio.scoring.test_likelihood import model_of

Losses = dict[int, np.ndarray]


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    records = {"a": random_bases(150, 1, "ACGTNacgtn"), "b": random_bases(61, 2), "c": "G", "d": "NNNNN"}
    return make_genome(records)


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    return model_of()


def streamed(model: SequenceModel, genome: Genome, spans: Spans, **options: int) -> Losses:
    """Return the losses of each span; check that every base comes once and in order."""
    found, parts = [], defaultdict(list)
    for scored in stream_losses(model, genome, spans, **options):
        found += [(scored.span, scored.start + offset) for offset in range(len(scored.losses))]
        parts[scored.span].append(scored.losses)
    assert found == [(span, base) for span, (start, end) in enumerate(spans) for base in range(start, end)]
    return {span: np.concatenate(losses) for span, losses in parts.items()}


@torch.no_grad()
def forward_over(model: SequenceModel, genome: Genome, start: int, end: int) -> np.ndarray:
    """Return the losses of one span by one forward pass, in the layout of streaming."""
    packed = torch.from_numpy(genome.bases[start:end].copy())[None]
    inputs, targets = inputs_and_targets(packed)
    if end - start == 1:
        return np.array([np.nan], np.float32)
    losses, _ = base_losses(model, inputs, targets, model.initial_state(1))
    of_bases = torch.where((targets >= A) & (targets <= T), losses, torch.nan)[0]
    return np.append(np.float32(np.nan), of_bases.numpy())


def assert_close(left: np.ndarray, right: np.ndarray, tolerance: float = 1e-5) -> None:
    assert left.shape == right.shape
    np.testing.assert_allclose(left, right, atol=tolerance, rtol=0, equal_nan=True)


@given(
    bounds=st.lists(st.tuples(st.integers(0, 149), st.integers(1, 60)), min_size=1, max_size=5),
    chunk=st.integers(1, 230),
)
@settings(max_examples=25)
def test_any_spans_in_any_chunks_are_one_forward_each(
    genome: Genome, model: SequenceModel, bounds: list[tuple[int, int]], chunk: int
) -> None:
    spans = as_spans(genome.span("a", start, min(150, start + length)) for start, length in bounds)
    losses = streamed(model, genome, spans, chunk=chunk)
    for span, (start, end) in enumerate(spans.tolist()):
        assert_close(losses[span], forward_over(model, genome, start, end))


@pytest.mark.parametrize("chunk", [1, 2, 13, 150, 151, 217, 1000])
def test_records_of_every_kind(genome: Genome, model: SequenceModel, chunk: int) -> None:
    losses = streamed(model, genome, genome.record_spans, chunk=chunk)
    for span, (start, end) in enumerate(genome.record_spans.tolist()):
        assert_close(losses[span], forward_over(model, genome, start, end))
    assert np.isfinite(losses[0]).sum() > 100
    assert np.isfinite(losses[1]).sum() == 60
    assert np.isnan(losses[2]).all()
    assert np.isnan(losses[3]).all()


@pytest.mark.parametrize("chunk", [1, 17, 1000])
def test_context_is_read_and_not_scored(genome: Genome, model: SequenceModel, chunk: int) -> None:
    spans = as_spans([genome.span("a", 70, 90), genome.span("a", 4, 9), genome.span("b", 0, 5)])
    losses = streamed(model, genome, spans, context=30, chunk=chunk)
    first, second, third = (forward_over(model, genome, *genome.span(*at)) for at in CONTEXTS)
    assert_close(losses[0], first[30:])
    assert_close(losses[1], second[4:])
    assert_close(losses[2], third)


CONTEXTS = [("a", 40, 90), ("a", 0, 9), ("b", 0, 5)]


def test_many_spans_take_several_chunks(
    genome: Genome, model: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = as_spans(genome.span("b", start, start + 7) for start in range(50))
    together = streamed(model, genome, spans)
    monkeypatch.setattr(streaming, "MAX_SEGMENTS", 3)
    apart = streamed(model, genome, spans)
    assert all(len(segments) <= 3 for segments in cut_spans(spans, 1000))
    for span in range(50):
        assert_close(apart[span], together[span])


def test_complex_and_bf16_models_stream_too(genome: Genome, model: SequenceModel) -> None:
    spans = genome.record_spans[:2]
    complex_model = model_of(complex=True)
    for span, losses in streamed(complex_model, genome, spans, chunk=40).items():
        assert_close(losses, forward_over(complex_model, genome, *spans[span]))
    with torch.autocast("cpu", torch.bfloat16):
        chunks, whole = (streamed(model, genome, spans, chunk=chunk) for chunk in (40, 1000))
    assert_close(chunks[0], whole[0], 0.1)
    assert not np.array_equal(whole[0], streamed(model, genome, spans)[0], equal_nan=True)


def test_chunks_are_full_but_the_last(genome: Genome) -> None:
    chunks = list(cut_spans(genome.record_spans, 40))
    sizes = [sum(segment.end - segment.start for segment in segments) for segments in chunks]
    assert sizes == [40] * 5 + [17]
    assert list(cut_spans(as_spans(), 40)) == []


def test_memory_is_of_a_few_chunks(genome: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = model_of(), []
    original = model.hidden

    def counted(inputs: torch.Tensor, *arguments: object) -> object:
        lengths.append(inputs.shape[1])
        return original(inputs, *arguments)

    monkeypatch.setattr(model, "hidden", counted)
    losses = stream_losses(model, genome, genome.record_spans, chunk=10)
    next(losses)
    assert lengths == [10] * (streaming.IN_FLIGHT + 1)
    next(losses)
    assert lengths == [10] * (streaming.IN_FLIGHT + 2)


def test_sums_are_of_the_bases_that_have_a_loss(genome: Genome, model: SequenceModel) -> None:
    for scored in stream_losses(model, genome, genome.record_spans, chunk=50):
        is_repeat = genome.bases[scored.start : scored.start + len(scored.losses)] >= SOFT_MASK
        repeat, unique = repeat_and_unique(genome, scored)
        for score, losses in ((repeat, scored.losses[is_repeat]), (unique, scored.losses[~is_repeat])):
            assert score.bases == np.isfinite(losses).sum()
            assert score.nats == pytest.approx(np.nansum(losses, dtype=np.float64))


def test_a_probability_that_is_not_finite_names_its_base(genome: Genome) -> None:
    broken = model_of()
    with torch.no_grad():
        broken.norm_f.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"base 2 of b no finite probability.*precision=fp32"):
        list(stream_losses(broken, genome, as_spans([genome.span("b")])))
