"""Collections of clips: natural order on every machine, and the published split of a folder."""

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.data import clips as clips_module
from audio.data.clips import NO_LABEL, Clip, Collection, audio_files, audio_folder, natural_key
from tests.audio.conftest import write_clips


def test_audio_of_any_depth_and_case_is_found_in_natural_order(tmp_path: Path) -> None:
    write_clips(
        tmp_path, ["b/clip2.wav", "b/clip10.WAV", "a9.ogg", "a10.wav", "a010.wav", "c/d/e.wav", "x.flac"]
    )
    for name in ["notes.txt", ".DS_Store", "b/._clip2.wav", "a.wav.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert audio_files(tmp_path) == [
        "a9.ogg",
        "a010.wav",
        "a10.wav",
        "b/clip2.wav",
        "b/clip10.WAV",
        "c/d/e.wav",
        "x.flac",
    ]


@given(names=st.lists(st.text("ab01²٣./", max_size=6), unique=True), data=st.data())
def test_the_order_is_one_whatever_order_the_disk_gives(names: list[str], data: st.DataObject) -> None:
    given_order = data.draw(st.permutations(names))
    assert sorted(given_order, key=natural_key) == sorted(names, key=natural_key)


@given(numbers=st.lists(st.integers(0, 10**6)))
def test_numbers_in_names_are_sorted_as_numbers(numbers: list[int]) -> None:
    names = [f"out{number}.wav" for number in numbers]
    assert sorted(names, key=natural_key) == [f"out{number}.wav" for number in sorted(numbers)]


def test_a_folder_without_audio_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no audio\. .* \.wav, \.flac, \.ogg\."):
        audio_files(tmp_path)
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(FileNotFoundError, match=f"There is no folder {path}"):
            audio_files(path)


def test_every_split_is_counted(tmp_path: Path) -> None:
    clips = (Clip("a", "train"), Clip("b", "test"), Clip("c", "train"))
    assert Collection("x", tmp_path, clips).counts == {"train": 2, "valid": 0, "test": 1}


def split_of(count: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    with monkeypatch.context() as patch:
        patch.setattr(clips_module, "audio_files", lambda _: [f"out{number}.wav" for number in range(count)])
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


def test_a_collection_of_a_folder_without_audio_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no audio"):
        audio_folder(tmp_path)
