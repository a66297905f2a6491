"""A folder is split in natural order, 88 / 6 / 6, as the published code does it."""

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.data import long_audio
from audio.data.clips import NO_LABEL
from audio.data.long_audio import audio_folder
from tests.audio.conftest import write_clips


def split_of(count: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    with monkeypatch.context() as patch:
        patch.setattr(long_audio, "audio_files", lambda _: [f"out{number}.wav" for number in range(count)])
        clips = audio_folder("anywhere").clips
    return {
        split: [clip.name for clip in clips if clip.split == split] for split in ("train", "valid", "test")
    }


def test_youtubemix_gets_the_published_split(monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(241, monkeypatch)
    assert {name: len(files) for name, files in split.items()} == {"train": 212, "valid": 14, "test": 15}
    assert (split["valid"][0], split["test"][0]) == ("out212.wav", "out226.wav")


@given(count=st.integers(9, 500))
def test_every_file_is_in_one_split_and_none_is_empty(count: int) -> None:
    split = split_of(count, pytest.MonkeyPatch())
    assert all(split.values())
    assert list(chain.from_iterable(split.values())) == [f"out{number}.wav" for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_few_files_are_split_each_in_itself(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(count, monkeypatch)
    assert (
        split["train"] == split["valid"] == split["test"] == [f"out{number}.wav" for number in range(count)]
    )


def test_files_are_taken_in_natural_order_without_labels(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "piano", [f"take{number}.wav" for number in range(20)])
    collection = audio_folder(str(folder))
    assert (collection.name, collection.classes) == ("piano", ())
    assert [clip.name for clip in collection.clips] == [f"take{number}.wav" for number in range(20)]
    assert {(clip.label, clip.begin, clip.end) for clip in collection.clips} == {(NO_LABEL, 0.0, 1.0)}
    assert collection.counts == {"train": 17, "valid": 1, "test": 2}


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no audio"):
        audio_folder(tmp_path)
