"""Speech Commands is split by its lists, FSDD by file names; missing clips are reported."""

import os
from collections import Counter
from pathlib import Path

import pytest

from audio.data import digits
from audio.data.digits import DIGITS, SC09_COUNTS, fsdd, sc09
from tests.audio.conftest import write_clips

COUNTS = {"vX": {"train": 20, "valid": 10, "test": 10}}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an unpacked archive with four clips per digit, one for validation and one for test."""
    monkeypatch.setattr(digits, "SC09_COUNTS", COUNTS)
    folder = tmp_path / "speech_commands"
    words = [*DIGITS, "bed", "_background_noise_"]
    write_clips(folder, [f"{word}/{clip}_nohash_0.wav" for word in words for clip in "dbca"])
    for file, clip in (("validation_list.txt", "b"), ("testing_list.txt", "c")):
        (folder / file).write_text("".join(f"{word}/{clip}_nohash_0.wav\n" for word in words))
    return folder


def test_the_lists_split_the_ten_digits(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    collection = sc09(str(archive))
    assert collection.name == "sc09-vX"
    assert collection.counts == COUNTS["vX"]
    assert collection.classes == DIGITS
    assert [clip.name for clip in collection.clips[:5]] == [
        *(f"zero/{clip}_nohash_0.wav" for clip in "abcd"),
        "one/a_nohash_0.wav",
    ]
    for clip in collection.clips:
        digit, file = clip.name.split("/")
        assert digit == DIGITS[clip.label]
        assert clip.split == {"a": "train", "b": "valid", "c": "test", "d": "train"}[file[0]]
    assert not caplog.text


def test_line_ends_and_blank_lines_of_the_lists_do_not_matter(archive: Path) -> None:
    expected = sc09(archive)
    for file in ("validation_list.txt", "testing_list.txt"):
        lines = (archive / file).read_text().splitlines()
        (archive / file).write_bytes("\r\n\r\n".join(lines).encode())
    assert sc09(archive) == expected


def test_a_part_of_an_archive_is_used_and_reported(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    (archive / "two" / "b_nohash_0.wav").unlink()
    (archive / "six" / "c_nohash_0.wav").unlink()
    collection = sc09(archive)
    assert collection.name == "sc09-vX-part"
    assert collection.counts == {"train": 20, "valid": 9, "test": 9}
    assert "is not a whole Speech Commands archive" in caplog.text
    assert "20 / 9 / 9 clips for train, valid, test, vX has 20 / 10 / 10." in caplog.text
    assert "2 clips that its lists name are missing, first six/c_nohash_0.wav." in caplog.text


def test_lists_of_unknown_version_are_reported(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (archive / "testing_list.txt").open("a") as file:
        file.write("two/a_nohash_0.wav\n")
    collection = sc09(archive)
    assert collection.name == "sc09-unknown-part"
    assert collection.counts == {"train": 19, "valid": 10, "test": 11}
    assert "the lists of no known version" in caplog.text


def test_a_clip_in_both_lists_is_rejected(archive: Path) -> None:
    (archive / "testing_list.txt").write_text((archive / "validation_list.txt").read_text())
    with pytest.raises(ValueError, match=r"eight/b_nohash_0.wav is in both lists"):
        sc09(archive)


def test_a_folder_that_is_no_archive_is_rejected(archive: Path, tmp_path: Path) -> None:
    (archive / "testing_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*testing_list.txt, .* python -m audio.download sc09"):
        sc09(archive)
    (archive / "testing_list.txt").touch()
    for path in (archive / "nine").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"nine holds no audio"):
        sc09(archive)
    (archive / "nine").rmdir()
    with pytest.raises(FileNotFoundError, match=r"no folder .*nine"):
        sc09(archive)


SPEECH_COMMANDS = os.environ.get("HELIXWAVE_SPEECH_COMMANDS")


@pytest.mark.skipif(not SPEECH_COMMANDS, reason="HELIXWAVE_SPEECH_COMMANDS names no unpacked Speech Commands")
def test_real_speech_commands_have_the_official_counts() -> None:
    folder = Path(str(SPEECH_COMMANDS))
    collection = sc09(folder)
    version = collection.name.split("-")[1]
    listed = {}
    for split, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        names = [line for line in (folder / file).read_text().split() if line.startswith(tuple(DIGITS))]
        listed |= dict.fromkeys(names, split)
    official = SC09_COUNTS[version]
    assert Counter(listed.values()) == {split: official[split] for split in ("valid", "test")}
    assert all(clip.split == listed.get(clip.name, "train") for clip in collection.clips)
    assert collection.counts == official or collection.name.endswith("-part")
    speakers = {
        split: {Path(clip.name).name.split("_")[0] for clip in collection.clips if clip.split == split}
        for split in official
    }
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])


def recordings(speakers: str, takes: int) -> list[str]:
    return [f"{digit}_{name}_{take}.wav" for digit in range(10) for name in speakers for take in range(takes)]


@pytest.mark.parametrize("below", ["", "recordings"])
def test_fsdd_is_split_by_index(tmp_path: Path, below: str) -> None:
    write_clips(tmp_path / below, recordings("ab", 12))
    collection = fsdd(tmp_path)
    assert (collection.name, collection.folder, collection.classes) == ("fsdd", tmp_path / below, DIGITS)
    assert collection.counts == {"train": 40, "valid": 100, "test": 100}
    for clip in collection.clips:
        digit, _, index = clip.name.removesuffix(".wav").split("_")
        assert clip.label == int(digit)
        assert clip.split == ("test" if int(index) < 5 else "valid" if int(index) < 10 else "train")


def test_fsdd_is_split_by_speaker(tmp_path: Path) -> None:
    collection = fsdd(write_clips(tmp_path, recordings("dacb", 2)), by_speaker=True)
    assert collection.name == "fsdd-by-speaker"
    for clip in collection.clips:
        assert clip.split == {"a": "train", "b": "train", "c": "valid", "d": "test"}[clip.name.split("_")[1]]


def test_fsdd_rejects_other_names_and_too_few_speakers(tmp_path: Path) -> None:
    write_clips(tmp_path, recordings("ab", 1))
    with pytest.raises(ValueError, match=r"has 2 speaker\(s\), but a split by speaker needs 3"):
        fsdd(tmp_path, by_speaker=True)
    write_clips(tmp_path, ["hello.wav"])
    with pytest.raises(ValueError, match=r"hello.wav is not named digit_speaker_index"):
        fsdd(tmp_path)
