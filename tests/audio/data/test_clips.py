"""Collections of clips: natural order on every machine, and the published split of a folder."""

from collections import Counter
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


def test_links_to_folders_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = write_clips(tmp_path / "outside", ["a.wav", "deep/b.wav"])
    folder = write_clips(tmp_path / "clips", ["c.wav", "real/d.wav"])
    (folder / "linked").symlink_to(outside)
    (folder / "again").symlink_to(folder / "real")
    (folder / "real" / "loop").symlink_to(folder)
    (outside / "deep" / "loop").symlink_to(outside)
    (folder / "gone").symlink_to(tmp_path / "absent")
    assert audio_files(folder) == ["c.wav", "linked/a.wav", "linked/deep/b.wav", "real/d.wav"]
    assert not caplog.text
    (folder / "e.wav").symlink_to(folder / "c.wav")
    (folder / "a.wav").symlink_to(outside / "a.wav")
    (folder / "gone.wav").symlink_to(tmp_path / "absent.wav")
    assert audio_files(folder) == ["c.wav", "linked/a.wav", "linked/deep/b.wav", "real/d.wav"]
    assert "2 audio file(s) left out, because they are links to other files of the folder" in caplog.text


def test_hidden_and_unreadable_files_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = [".ipynb_checkpoints/a.wav", ".Trash-1000/files/b.wav", "x/.git/c.mp3", "._a.wav"]
    folder = write_clips(tmp_path / ".cache" / "clips", ["a.wav", "x/b.aiff"])
    for name in [*hidden, "c.m4a", "x/d.WMA", "notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    assert audio_files(folder) == ["a.wav", "x/b.aiff"]
    hidden_ones = "4 audio file(s) left out, because they are hidden; the first is .Trash-1000/files/b.wav."
    assert hidden_ones in caplog.text
    others = "2 audio file(s) left out, because they are of formats that cannot be read; the first is c.m4a."
    assert others in caplog.text


def test_subfolders_are_classes_and_each_is_split(tmp_path: Path) -> None:
    names = [f"{name}/{number}.wav" for name, count in (("cat", 20), ("dog", 4)) for number in range(count)]
    collection = audio_folder(write_clips(tmp_path / "pets", names))
    assert (collection.name, collection.classes) == ("pets-by-class", ("cat", "dog"))
    assert sorted(clip.name for clip in collection.clips) == sorted(names)
    assert all(collection.classes[clip.label] == clip.name.split("/")[0] for clip in collection.clips)
    counts = Counter((clip.split, collection.classes[clip.label]) for clip in collection.clips)
    assert counts == {
        ("train", "cat"): 17,
        ("valid", "cat"): 1,
        ("test", "cat"): 2,
        ("train", "dog"): 2,
        ("valid", "dog"): 1,
        ("test", "dog"): 1,
    }


def test_a_class_of_two_files_is_split_by_parts(tmp_path: Path) -> None:
    collection = audio_folder(write_clips(tmp_path / "pets", ["cat/a.wav", "cat/b.wav", "dog/c.wav"]))
    assert collection.counts == {"train": 3, "valid": 3, "test": 3}
    assert {(clip.name, clip.label) for clip in collection.clips} == {
        ("cat/a.wav", 0),
        ("cat/b.wav", 0),
        ("dog/c.wav", 1),
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.wav", "cat/b.wav", "dog/c.wav"], "a.wav and 0 other files are outside of them"),
        (["train/a.wav", "test/b.wav", "validation/c.wav"], "they have the names of splits"),
        (["only/a.wav", "only/b.wav"], ""),
    ],
)
def test_other_subfolders_are_no_classes(
    names: list[str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection = audio_folder(write_clips(tmp_path / "clips", names))
    assert (collection.name, collection.classes) == ("clips", ())
    assert message in caplog.text
    assert bool(message) == bool(caplog.text)


def test_a_folder_without_audio_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no audio\. .* \.wav, \.flac, .*\.mp3"):
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
