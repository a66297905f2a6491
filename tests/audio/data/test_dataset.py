"""Batches of waveforms: independent of ranks, every sample a target, padded and packed equal."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audio.data.clips import Clip, Collection
from audio.data.dataset import AudioDataset, evaluation_batches, inputs_and_targets, read_packed, read_padded
from audio.data.pack import PackedAudio, open_audio
from audio.data.quantizer import SILENCE
from audio.data.windows import Windows, clip_windows, whole_windows
from core.training import IGNORED, Batch, count_targets, cross_entropy_sum
from tests.audio.conftest import write_clips

BATCH = 12
LENGTHS = range(30, 50)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> PackedAudio:
    """Return 20 training clips of 30 to 49 samples, with classes 0 to 2 in turn."""
    names = [f"{length}.wav" for length in LENGTHS]
    folder = write_clips(tmp_path_factory.mktemp("clips"), names, LENGTHS.start)
    clips = tuple(Clip(name, "train", number % 3) for number, name in enumerate(names))
    return open_audio(Collection("noise", folder, clips, ("a", "b", "c")))


@pytest.fixture(scope="module", params=["clips", "pieces", "whole"])
def windows(audio: PackedAudio, request: pytest.FixtureRequest) -> Windows:
    if request.param == "clips":
        return clip_windows(audio, "train", 100)
    return (
        clip_windows(audio, "train", 19) if request.param == "pieces" else whole_windows(audio, "train", 15)
    )


def codes_of(audio: PackedAudio, windows: Windows, number: int) -> list[int]:
    start = windows.starts[number]
    return audio.codes[start : start + windows.lengths[number]].tolist()


def real(targets: Tensor) -> list[list[int]]:
    """Return the targets of every row without padding."""
    return [[code for code in row if code != IGNORED] for row in targets.tolist()]


@given(step=st.integers(0, 10**9), world=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_ranks_together_are_the_whole_batch(
    audio: PackedAudio, windows: Windows, step: int, world: int, seed: int
) -> None:
    dataset = AudioDataset(audio, windows, BATCH, seed)
    size = BATCH // world
    shares = [range(first, first + size) for first in range(0, BATCH, size)]
    for whole, parts in (
        (dataset(step, range(BATCH))[0], [dataset(step, rows)[0] for rows in shares]),
        (dataset(step, range(BATCH))[1], [dataset(step, rows)[1] for rows in shares]),
        (dataset.labels(step, range(BATCH)), [dataset.labels(step, rows) for rows in shares]),
        (
            dataset.packed(step, range(BATCH)).targets[0],
            [dataset.packed(step, rows).targets[0] for rows in shares],
        ),
    ):
        assert torch.equal(whole, torch.cat(parts))


def test_rows_depend_on_seed_and_step_and_not_on_what_ran_before(
    audio: PackedAudio, windows: Windows
) -> None:
    def read(seed: int, step: int) -> list[list[int]]:
        return real(AudioDataset(audio, windows, BATCH, seed)(step, range(BATCH))[1])

    dataset = AudioDataset(audio, windows, BATCH, 0)
    uninterrupted = [real(dataset(step, range(BATCH))[1]) for step in range(3)]
    assert uninterrupted[2] == read(0, 2)
    assert read(0, 2) != read(0, 1)
    assert read(0, 2) != read(1, 2)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_holds_every_window_once(audio: PackedAudio, windows: Windows, batch_size: int) -> None:
    dataset = AudioDataset(audio, windows, batch_size, seed=3)
    assert len(dataset) == -(-len(windows) // batch_size)
    seen = [row for step in range(len(dataset)) for row in real(dataset(step, range(batch_size))[1])]
    expected = sorted(codes_of(audio, windows, number) for number in range(len(windows)))
    assert sorted(seen[: len(windows)]) == expected


def check_rows(
    audio: PackedAudio, windows: Windows, chosen: Sequence[int], inputs: Tensor, targets: Tensor
) -> None:
    """Check that row k is window chosen[k]: codes as targets, and as inputs after SILENCE."""
    assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int16)
    assert inputs.shape == targets.shape
    for number, input_row, target_row in zip(chosen, inputs.tolist(), targets.tolist(), strict=True):
        codes = codes_of(audio, windows, number)
        padding = len(target_row) - len(codes)
        assert target_row == codes + [IGNORED] * padding
        assert input_row == ([SILENCE, *codes] + [SILENCE] * padding)[: len(input_row)]


@given(data=st.data())
def test_targets_are_every_sample_and_inputs_those_before(
    audio: PackedAudio, windows: Windows, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    inputs, targets = read_padded(audio, windows, np.array(chosen), 50)
    assert inputs.shape == (len(chosen), 50)
    check_rows(audio, windows, chosen, inputs, targets)


@given(data=st.data())
def test_packed_is_padded_without_the_padding(
    audio: PackedAudio, windows: Windows, data: st.DataObject
) -> None:
    chosen = np.array(data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5)))
    inputs, targets = read_padded(audio, windows, chosen, 50)
    packed = read_packed(audio, windows, chosen)
    is_real = targets != IGNORED
    assert torch.equal(packed.targets[0], targets[is_real])
    assert torch.equal(packed.inputs[0], inputs[is_real])
    assert (packed.inputs.dtype, packed.targets.dtype) == (torch.uint8, torch.int16)
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.cu_seqlens.diff().tolist() == windows.lengths[chosen].tolist()
    assert packed.cu_seqlens[[0, -1]].tolist() == [0, packed.inputs.numel()]


@pytest.mark.parametrize("frame", [1, 4, 16])
@given(data=st.data())
def test_packed_windows_begin_at_whole_frames(
    audio: PackedAudio, windows: Windows, frame: int, data: st.DataObject
) -> None:
    chosen = np.array(data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5)))
    inputs, targets, bounds = read_packed(audio, windows, chosen, frame)
    assert not (bounds % frame).any()
    for number, start, end in zip(chosen, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert end - start - windows.lengths[number] < frame
        check_rows(audio, windows, [number], inputs[:, start:end], targets[:, start:end])


def test_the_share_of_padding_is_that_of_the_batches(audio: PackedAudio, windows: Windows) -> None:
    dataset = AudioDataset(audio, windows, BATCH)
    targets = [dataset(step, range(BATCH))[1] for step in range(3)]
    padding = sum(int((batch == IGNORED).sum()) for batch in targets)
    assert dataset.padding_share(3) == pytest.approx(padding / sum(batch.numel() for batch in targets))


@pytest.mark.parametrize("packed", [False, True])
def test_a_conditional_window_begins_with_its_class(
    audio: PackedAudio, windows: Windows, packed: bool
) -> None:
    labelled = replace(windows, labels=np.arange(len(windows)))
    plain = AudioDataset(audio, labelled, BATCH)
    conditional = AudioDataset(audio, labelled, BATCH, conditional=True)
    if packed:
        first = plain.packed(2, range(BATCH), 4)
        batch = conditional.packed(2, range(BATCH), 4)
        places = (torch.zeros(BATCH, dtype=torch.int64), batch.cu_seqlens[:-1].long())
    else:
        first, batch = Batch(*plain(2, range(BATCH))), Batch(*conditional(2, range(BATCH)))
        places = (torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64))
    assert torch.equal(batch.inputs[places], 256 + plain.labels(2, range(BATCH)))
    assert torch.equal(batch.inputs.index_put(places, torch.tensor(SILENCE, dtype=torch.int16)), first.inputs)
    assert torch.equal(batch.targets, first.targets)


def test_a_batch_is_as_wide_as_its_longest_window(audio: PackedAudio) -> None:
    dataset = AudioDataset(audio, clip_windows(audio, "train", 100), 3)
    widths = []
    for step in range(20):
        targets = dataset(step, range(3))[1]
        lengths = (targets != IGNORED).sum(dim=1)
        assert targets.shape[1] == lengths.max()
        assert dataset(step, range(1, 2))[0].shape == (1, targets.shape[1])
        widths.append(targets.shape[1])
    assert len(set(widths)) > 3


def test_labels_are_those_of_the_rows(audio: PackedAudio, windows: Windows) -> None:
    dataset = AudioDataset(audio, windows, BATCH, seed=1)
    label_of = {
        tuple(codes_of(audio, windows, number)): windows.labels[number] for number in range(len(windows))
    }
    for step in range(5):
        labels = dataset.labels(step, range(BATCH))
        assert labels.dtype == torch.int64
        expected = [label_of[tuple(row)] for row in real(dataset(step, range(BATCH))[1])]
        assert labels.tolist() == expected


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_sees_every_window_once_on_any_ranks(
    audio: PackedAudio, windows: Windows, world: int, batch_size: int
) -> None:
    ranks = [list(evaluation_batches(audio, windows, batch_size, rank, world)) for rank in range(world)]
    numbers = iter(range(len(windows)))
    for batches in zip(*ranks, strict=True):
        assert len({inputs.shape for inputs, _ in batches}) == 1
        for inputs, targets in batches:
            assert len(inputs) == batch_size
            is_filling = (targets == IGNORED).all(dim=1)
            chosen = [number for _, number in zip(range(int((~is_filling).sum())), numbers, strict=False)]
            check_rows(audio, windows, chosen, inputs[: len(chosen)], targets[: len(chosen)])
            assert (inputs[len(chosen) :] == SILENCE).all()
            assert is_filling[len(chosen) :].all()
    assert next(numbers, None) is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 7), (0, 4)])
def test_inputs_are_targets_shifted_by_one(shape: tuple[int, int]) -> None:
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    inputs, targets = inputs_and_targets(codes)
    assert torch.equal(targets, codes.short())
    assert torch.equal(inputs[:, 1:], codes[:, :-1])
    assert (inputs[:, 0] == SILENCE).all()
    assert inputs.shape == shape


def test_a_model_that_knows_the_next_code_has_no_loss_on_padding(audio: PackedAudio) -> None:
    windows = clip_windows(audio, "train", 100)
    _, targets = AudioDataset(audio, windows, BATCH)(0, range(BATCH))
    logits = torch.full((*targets.shape, 256), -50.0)
    logits.scatter_(-1, targets.clamp(min=0).long()[..., None], 50.0)
    assert cross_entropy_sum(logits, targets).item() == 0
    assert count_targets(targets).item() < targets.numel()
