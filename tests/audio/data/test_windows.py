"""Windows tile the clips of one split: every sample once, none of another clip or split."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.data.pack import PackedAudio, PackedClip
from audio.data.windows import Windows, clip_windows, whole_windows

lengths_strategy = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def pack_of(lengths: list[int], splits: list[str]) -> PackedAudio:
    """Attributes of a pack that windows read."""
    starts = np.cumsum([0, *lengths]).tolist()
    clips = [
        PackedClip(f"clip{number}", split, number % 3, starts[number], length)
        for number, (length, split) in enumerate(zip(lengths, splits, strict=True))
    ]
    counts = {split: splits.count(split) for split in ("train", "valid", "test")}
    return SimpleNamespace(name="sounds", clips=clips, counts=counts)  # type: ignore[return-value]


def read(windows: Windows) -> list[tuple[list[int], int]]:
    """Return (positions, label) of every window."""
    rows = zip(windows.starts.tolist(), windows.lengths.tolist(), windows.labels.tolist(), strict=True)
    return [(list(range(start, start + length)), label) for start, length, label in rows]


@given(lengths=lengths_strategy, length=st.integers(1, 50), data=st.data())
def test_clips_are_cut_into_pieces_that_lose_nothing(
    lengths: list[int], length: int, data: st.DataObject
) -> None:
    splits = ["train", *data.draw(st.lists(st.sampled_from(["train", "test"]), min_size=7, max_size=7))]
    audio = pack_of(lengths, splits[: len(lengths)])
    windows = clip_windows(audio, "train", length)
    expected = [
        (
            list(range(clip.start + begin, min(clip.start + begin + length, clip.start + clip.length))),
            clip.label,
        )
        for clip in audio.clips
        if clip.split == "train"
        for begin in range(0, clip.length, length)
    ]
    assert read(windows) == expected
    assert len(windows) == len(expected)


@given(lengths=lengths_strategy, length=st.integers(1, 40))
def test_whole_windows_leave_out_the_shorter_rest(lengths: list[int], length: int) -> None:
    audio = pack_of(lengths, ["train"] * len(lengths))
    whole = [window for window in read(clip_windows(audio, "train", length)) if len(window[0]) == length]
    if whole:
        assert read(whole_windows(audio, "train", length)) == whole
    else:
        with pytest.raises(ValueError, match=f"No window of {length} samples fits into the train clips"):
            whole_windows(audio, "train", length)


def test_a_window_longer_than_every_clip_names_the_longest() -> None:
    audio = pack_of([500, 2000, 1999], ["train"] * 3)
    with pytest.raises(ValueError, match=r"No window of 2,001 samples .* longest, clip1, has 2,000"):
        whole_windows(audio, "train", 2001)


@pytest.mark.parametrize("cut", [clip_windows, whole_windows])
def test_a_split_without_clips_and_length_0_are_rejected(cut) -> None:  # type: ignore[no-untyped-def]
    audio = pack_of([5, 5], ["train", "test"])
    with pytest.raises(
        ValueError, match="sounds has no clips for valid, but 1 for train, 0 for valid, 1 for test"
    ):
        cut(audio, "valid", 3)
    with pytest.raises(ValueError, match="length of a window is 0"):
        cut(audio, "train", 0)
