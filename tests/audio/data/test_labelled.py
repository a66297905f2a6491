"""Batches of labelled clips: each row depends on seed, step and row alone."""

from pathlib import Path

import pytest
import torch

from audio.data.clips import Clip, Collection, audio_folder
from audio.data.labelled import ClassifierBatches, LabelledClips
from audio.data.mel import CLIP
from audio.data.pack import PackedAudio, open_audio
from audio.data.quantizer import decode
from tests.audio.conftest import write_clips

SPLITS = ("train", "train", "train", "test")


@pytest.fixture
def packed(tmp_path: Path) -> PackedAudio:
    names = [f"{number}.wav" for number in range(4)]
    write_clips(tmp_path, names, samples=900)
    clips = tuple(
        Clip(name, split, label % 2) for label, (name, split) in enumerate(zip(names, SPLITS, strict=True))
    )
    return open_audio(Collection("clips", tmp_path, clips, ("no", "yes")))


def test_a_batch_depends_on_seed_step_and_row_alone(packed: PackedAudio) -> None:
    clips = LabelledClips(packed, "train")
    sounds, labels = ClassifierBatches(clips, 6, seed=1)(5, range(6))
    assert (sounds.shape, sounds.dtype, labels.shape) == ((6, CLIP), torch.int16, (6, 1))
    again = ClassifierBatches(clips, 6, seed=1)
    again(0, range(6))
    some_sounds, some_labels = again(5, range(2, 4))
    assert torch.equal(some_sounds, sounds[2:4])
    assert torch.equal(some_labels, labels[2:4])
    assert not torch.equal(ClassifierBatches(clips, 6, seed=2)(5, range(6))[0], sounds)
    assert not torch.equal(again(6, range(6))[0], sounds)


def test_an_epoch_holds_every_clip_once_with_its_class(packed: PackedAudio) -> None:
    clips = LabelledClips(packed, "train")
    assert clips.labels.tolist() == [0, 1, 0]
    batches = ClassifierBatches(clips, 3, seed=0)
    for step in range(4):
        assert sorted(batches(step, range(3))[1].flatten().tolist()) == [0, 0, 1]


def test_a_split_s_clips_are_what_the_quantizer_gives_back(packed: PackedAudio) -> None:
    clips = LabelledClips(packed, "test")
    (clip,) = clips.clips
    expected = decode(torch.tensor(packed.codes[clip.start : clip.start + clip.length]), "mulaw")
    assert torch.equal(torch.from_numpy(clips.waveform(0)), expected)
    torch.testing.assert_close(clips.seconds(range(1))[0, :900], expected[:900] - expected.mean())


def test_audio_that_cannot_be_classified_is_rejected(packed: PackedAudio, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clips has no clips for valid"):
        LabelledClips(packed, "valid")
    unnamed = open_audio(audio_folder(write_clips(tmp_path / "unnamed", ["a.wav"], 900)))
    with pytest.raises(ValueError, match="unnamed has no classes"):
        LabelledClips(unnamed, "train")
