"""Row i of step s depends only on (seed, length, s, i); targets are shifted inputs and never N."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.spans import as_spans, merge
from bio.genome.vocabulary import SOFT_MASK, A, N, T, decode, reverse_complement
from bio.windows.dataset import (
    NOT_A_TARGET,
    GenomeDataset,
    evaluation_batches,
    inputs_and_targets,
    read_windows,
    target_repeats,
)
from bio.windows.splits import paper_windows
from bio.windows.window import Windows, random_windows, tiled_windows
from core.training import StagedBatches, doubling_lengths, plan_stages
from tests.bio.conftest import MakeGenome, random_bases


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({"a": random_bases(999, 1, "ACGTNacgtn"), "b": random_bases(300, 2)})


@pytest.fixture(scope="module", params=["tiled", "drawn", "paper"])
def windows(genome: Genome, request: pytest.FixtureRequest) -> Windows:
    regions = as_spans([genome.span("a", 5, 400), genome.span("b")])
    if request.param == "tiled":
        return tiled_windows(genome, regions, 33)
    if request.param == "drawn":
        return random_windows(genome, regions, 33)
    return paper_windows(genome, as_spans([genome.span("a", 0, 20), genome.span("b", 290, 300)]), 33)


@given(step=st.integers(0, 10**9), world=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_ranks_together_are_the_whole_batch(
    genome: Genome, windows: Windows, step: int, world: int, seed: int
) -> None:
    dataset = GenomeDataset(genome, windows, 12, seed, reverse_complement=True)
    whole = dataset(step, range(12))
    size = 12 // world
    parts = [dataset(step, range(first, first + size)) for first in range(0, 12, size)]
    for index in range(2):
        assert torch.equal(whole[index], torch.cat([part[index] for part in parts]))


def test_rows_depend_on_seed_and_step_only(genome: Genome, windows: Windows) -> None:
    def read(seed: int, step: int) -> torch.Tensor:
        return GenomeDataset(genome, windows, 64, seed, reverse_complement=True).packed(step, range(64))

    dataset = GenomeDataset(genome, windows, 64, 0, reverse_complement=True)
    uninterrupted = [dataset.packed(step, range(64)) for step in range(3)]
    assert torch.equal(uninterrupted[2], read(0, 2))
    assert not torch.equal(read(0, 2), read(0, 1))
    assert not torch.equal(read(0, 2), read(1, 2))


def test_another_length_reads_other_windows_in_another_order(genome: Genome) -> None:
    regions, counter = as_spans([genome.span("b")]), np.arange(1000)
    drawn = [GenomeDataset(genome, random_windows(genome, regions, length), 8) for length in (20, 40)]
    starts = [dataset.windows.sample(counter, dataset.seed) for dataset in drawn]
    assert abs(np.corrcoef(starts)[0, 1]) < 0.15  # beyond once in 400,000
    segments = as_spans([genome.span("b", start, start + 10) for start in range(0, 300, 10)])
    paper = [GenomeDataset(genome, paper_windows(genome, segments, length), 8) for length in (20, 40)]
    orders = [dataset.windows.sample(counter[:60], dataset.seed) for dataset in paper]
    assert len(paper[0].windows) == len(paper[1].windows) == 60
    assert (np.argsort(orders[0]) != np.argsort(orders[1])).mean() > 0.8


def test_each_stage_of_a_warm_up_begins_an_epoch(genome: Genome) -> None:
    regions, lengths = as_spans([genome.span("b", 0, 257)]), doubling_lengths(4, 16)
    windows = {length: tiled_windows(genome, regions, length) for length in lengths}
    stages = plan_stages({length: len(windows[length]) * length for length in lengths}, 64)
    assert [(stage.batch_size, stage.steps) for stage in stages] == [(16, 4), (8, 4), (4, 4)]
    datasets = {
        stage.length: GenomeDataset(genome, windows[stage.length], stage.batch_size, seed=5)
        for stage in stages
    }
    batches = StagedBatches(stages, datasets)
    for stage in stages:
        steps = range(stage.first_step, stage.end)
        rows = torch.cat([batches(step, range(stage.batch_size))[0] for step in steps])
        tiles = torch.from_numpy(genome.tokens("b", 0, 256).reshape(-1, stage.length))
        assert sorted(rows.tolist()) == sorted(tiles.tolist())
        assert rows.tolist() != tiles.tolist()


def test_targets_are_inputs_shifted_by_one_and_only_bases(genome: Genome, windows: Windows) -> None:
    inputs, targets = GenomeDataset(genome, windows, 64, 3, reverse_complement=True)(0, range(64))
    assert inputs.shape == targets.shape == (64, 33)
    assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int8)
    following = inputs[:, 1:].long()
    is_base = (following >= A) & (following <= T)
    assert torch.equal(targets[:, :-1].long(), torch.where(is_base, following, NOT_A_TARGET))
    assert set(inputs.unique().tolist()) == set(range(A, N + 1))
    assert set(targets.unique().tolist()) == {NOT_A_TARGET, *range(A, T + 1)}


def test_a_batch_of_n_has_no_target() -> None:
    inputs, targets = inputs_and_targets(torch.full((2, 9), N, dtype=torch.uint8))
    assert (inputs == N).all()
    assert (targets == NOT_A_TARGET).all()


def test_every_packed_byte_gives_its_input_and_target() -> None:
    packed = torch.arange(256).to(torch.uint8)[None]
    inputs, targets = inputs_and_targets(packed)
    assert torch.equal(inputs[0].long(), torch.arange(255) % SOFT_MASK)
    token = torch.arange(1, 256) % SOFT_MASK
    assert torch.equal(targets[0].long(), torch.where((token >= A) & (token <= T), token, NOT_A_TARGET))


@given(start=st.integers(0, 966), data=st.data())
def test_both_strands_hold_the_same_bases(genome: Genome, start: int, data: st.DataObject) -> None:
    regions = as_spans([genome.span("a")])
    windows = tiled_windows(genome, regions, 33)
    starts = np.array([genome.span("a", start)[0]] * 2)
    forward, reverse = read_windows(genome, windows, starts, np.array([False, True])).numpy()
    read = min(34, 999 - start)
    assert np.array_equal(forward[:read] & 0x7F, genome.tokens("a", start, start + read))
    assert np.array_equal(reverse_complement(reverse[:read]), forward[:read])
    assert (forward[read:] == N).all()
    assert (reverse[read:] == N).all()


def test_extra_base_beyond_the_region_is_not_read(make_genome: MakeGenome) -> None:
    genome = make_genome({"a": "ACGTACGTAC"})
    windows = tiled_windows(genome, as_spans([genome.span("a", 2, 6)]), 4)
    rows = read_windows(genome, windows, windows.starts.repeat(2), np.array([False, True]))
    assert [decode(row & 0x7F) for row in rows.numpy()] == ["GTACN", "GTACN"]
    assert inputs_and_targets(rows)[1][:, -1].tolist() == [NOT_A_TARGET] * 2
    merged = tiled_windows(genome, merge(as_spans([genome.span("a", 2, 7)])), 4)
    assert decode(read_windows(genome, merged, merged.starts, np.array([True]))[0].numpy()) == "CGTAC"


def test_strand_is_uniform_and_forward_by_default(genome: Genome) -> None:
    windows = tiled_windows(genome, as_spans([genome.span("b", 0, 34)]), 33)
    forward = GenomeDataset(genome, windows, 1000).packed(0, range(1000))
    assert (forward == forward[0]).all()
    rows = GenomeDataset(genome, windows, 1000, reverse_complement=True).packed(0, range(1000))
    is_forward = (rows == forward).all(dim=1)
    other = torch.from_numpy(reverse_complement(forward[0].numpy()))
    assert (rows[~is_forward] == other).all()
    assert 430 < is_forward.sum() < 570  # beyond once in 100,000


def test_repeats_are_those_of_the_targets(genome: Genome) -> None:
    windows = tiled_windows(genome, as_spans([genome.span("a", 100, 134)]), 33)
    packed = GenomeDataset(genome, windows, 1).packed(0, range(1))
    assert target_repeats(packed)[0].tolist() == genome.repeats("a", 101, 134).tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_sees_every_window_once_on_any_ranks(genome: Genome, world: int, batch_size: int) -> None:
    windows = tiled_windows(genome, genome.record_spans, 33)
    batches = [list(evaluation_batches(genome, windows, batch_size, rank, world)) for rank in range(world)]
    assert len({len(of_rank) for of_rank in batches}) == 1
    rows = torch.cat([batch for step in zip(*batches, strict=True) for batch in step])
    assert all(batch.shape == (batch_size, 34) for of_rank in batches for batch in of_rank)
    expected = read_windows(genome, windows, windows.starts, np.zeros(len(windows), bool))
    assert torch.equal(rows[: len(windows)], expected)
    assert (rows[len(windows) :] == N).all()


def test_an_epoch_counts_its_last_step(genome: Genome) -> None:
    windows = tiled_windows(genome, as_spans([genome.span("b")]), 30)
    assert [len(GenomeDataset(genome, windows, size)) for size in (1, 3, 5, 10, 20)] == [10, 4, 2, 1, 1]
