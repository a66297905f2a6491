"""Packs hold the codes of their clips, are rebuilt after changes, and report every unusable file."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import audio.data.pack
from audio.data.clips import Clip, Collection, audio_folder
from audio.data.pack import PackedAudio, open_audio
from audio.data.quantizer import QUANTIZERS, Quantizer, encode
from audio.data.waveform import RATE, Waveform, read_waveform
from tests.audio.conftest import noise, tone, write_clips


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    folder = write_clips(tmp_path / "clips", ["a.wav", "b/b.flac", "c.wav"])
    clips = (Clip("a.wav", "train", 1), Clip("b/b.flac", "valid", 0), Clip("c.wav", "train", 0))
    return Collection("sounds-v1", folder, clips, ("cat", "dog"))


def index_of(collection: Collection) -> Path:
    return collection.folder / f"{collection.name}.mulaw.pack.json"


def codes(packed: PackedAudio, number: int) -> np.ndarray:
    clip = packed.clips[number]
    return packed.codes[clip.start : clip.start + clip.length]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_pack_holds_the_codes_of_every_clip(collection: Collection, quantizer: Quantizer) -> None:
    packed = open_audio(collection, quantizer)
    assert (packed.name, packed.quantizer, packed.classes) == ("sounds-v1", quantizer, ("cat", "dog"))
    assert packed.counts == collection.counts == {"train": 2, "valid": 1, "test": 0}
    assert [clip[:3] for clip in packed.clips] == [clip[:3] for clip in collection.clips]
    for number, clip in enumerate(collection.clips):
        expected = encode(read_waveform(collection.folder / clip.name), quantizer)
        assert np.array_equal(codes(packed, number), expected)
    assert sum(clip.length for clip in packed.clips) == packed.codes.size
    assert packed.codes.dtype == np.uint8


def test_quantizers_and_splits_have_packs_of_their_own(collection: Collection) -> None:
    first = open_audio(collection, "mulaw")
    other = open_audio(replace(collection, name="sounds-v2"), "mulaw")
    linear = open_audio(collection, "linear")
    assert len(list(collection.folder.glob("*.pack.json"))) == 3
    assert first.codes.tobytes() == other.codes.tobytes() != linear.codes.tobytes()
    assert first.sha256 == linear.sha256


def test_parts_of_one_file_are_clips_that_do_not_overlap(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(101), RATE)
    parts = [("train", 0.0, 0.88), ("valid", 0.88, 0.94), ("test", 0.94, 1.0)]
    clips = tuple(Clip("a.wav", split, begin=begin, end=end) for split, begin, end in parts)
    packed = open_audio(Collection("one", tmp_path, clips))
    assert [clip.length for clip in packed.clips] == [88, 6, 7]
    assert np.array_equal(packed.codes, encode(noise(101), "mulaw"))


def no_packing(*_: object) -> None:
    pytest.fail("packed again")


def test_second_opening_reuses_the_pack(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_audio(collection)
    monkeypatch.setattr(audio.data.pack, "_pack", no_packing)
    assert open_audio(collection).clips == first.clips
    os.utime(collection.folder / "a.wav")
    assert open_audio(collection).codes.tobytes() == first.codes.tobytes()


def test_a_changed_clip_is_packed_again(collection: Collection, caplog: pytest.LogCaptureFixture) -> None:
    first = open_audio(collection)
    soundfile.write(collection.folder / "c.wav", noise(52, 77), RATE)  # of the same size as before
    second = open_audio(collection)
    assert np.array_equal(codes(second, 2), encode(noise(52, 77), "mulaw"))
    assert first.sha256 != second.sha256
    assert "clips have changed since" in caplog.text.replace(f"of {collection.folder} ", "")
    assert len(list(collection.folder.glob("*.u8"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: clips[:2],
        lambda clips: clips[::-1],
        lambda clips: (clips[0]._replace(split="test"), *clips[1:]),
        lambda clips: (clips[0]._replace(label=0), *clips[1:]),
        lambda clips: (clips[0]._replace(end=0.5), *clips[1:]),
    ],
)
def test_another_list_of_clips_is_packed_again(  # type: ignore[no-untyped-def]
    collection: Collection, caplog: pytest.LogCaptureFixture, change
) -> None:
    open_audio(collection)
    other = replace(collection, clips=change(collection.clips))
    packed = open_audio(other)
    assert [clip[:3] for clip in packed.clips] == [clip[:3] for clip in other.clips]
    assert "has other clips now" in caplog.text


def _cut(index: Path) -> None:
    flat = index.parent / json.loads(index.read_text())["flat"]
    flat.write_bytes(flat.read_bytes()[:-1])


def _garbage(index: Path) -> None:
    index.write_bytes(b"\xff\xfe{")


@pytest.mark.parametrize(("harm", "message"), [(_cut, "cut short"), (_garbage, "not the index of a pack")])
def test_a_damaged_pack_is_reported_and_rebuilt(  # type: ignore[no-untyped-def]
    collection: Collection, caplog: pytest.LogCaptureFixture, harm, message: str
) -> None:
    expected = open_audio(collection).codes.tobytes()
    harm(index_of(collection))
    assert open_audio(collection).codes.tobytes() == expected
    assert message in caplog.text


def test_folders_share_a_cache_without_sharing_packs(collection: Collection, tmp_path: Path) -> None:
    other = replace(collection, folder=write_clips(tmp_path / "other", ["c.wav", "b/b.flac", "a.wav"]))
    first, second = (open_audio(one, cache=tmp_path / "cache") for one in (collection, other))
    assert first.codes.tobytes() != second.codes.tobytes()
    assert open_audio(collection, cache=tmp_path / "cache").codes.tobytes() == first.codes.tobytes()
    assert not list(collection.folder.glob("*.json"))


def test_every_bad_file_is_counted_and_nothing_is_packed(collection: Collection) -> None:
    bad = [f"bad{number}.wav" for number in range(6)]
    for name in bad:
        (collection.folder / name).write_text("not audio")
    soundfile.write(collection.folder / "nan.wav", np.full(9, np.nan), RATE, subtype="FLOAT")
    names = [*bad, "nan.wav", "gone.wav"]
    broken = replace(collection, clips=(*collection.clips, *(Clip(name, "train") for name in names)))
    with pytest.raises(ValueError, match="8 of the 11 clips of sounds-v1 cannot be used") as caught:
        open_audio(broken)
    text = str(caught.value)
    assert text.count("cannot be read as audio") == 5
    assert text.endswith("and 3 more")
    last = replace(collection, clips=(Clip("nan.wav", "train"), Clip("gone.wav", "train")))
    with pytest.raises(ValueError, match=r"(?s)nan.wav holds NaN.*no audio file .*gone.wav"):
        open_audio(last)
    assert not [path for path in collection.folder.iterdir() if path.suffix in (".json", ".u8")]


def test_a_bad_file_that_is_split_in_itself_is_named_once(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"bad{number}.wav").write_text("not audio")
    with pytest.raises(ValueError, match="12 of the 12 clips") as caught:
        open_audio(audio_folder(tmp_path))
    lines = str(caught.value).splitlines()[1:]
    assert [Path(line.split()[0]).name for line in lines] == [f"bad{number}.wav" for number in range(4)]


def test_a_part_without_samples_is_rejected(collection: Collection) -> None:
    tiny = replace(collection, clips=(Clip("a.wav", "valid", begin=0.88, end=0.89),))
    with pytest.raises(ValueError, match=r"a.wav is too short to be split"):
        open_audio(tiny)


@pytest.mark.parametrize(
    ("samples", "finding"),
    [
        (np.zeros(40, np.float32), "1 clips of sounds-v1 hold nothing but silence: a.wav."),
        (np.sign(tone(400)), "1 clips of sounds-v1 are clipped at full scale: a.wav."),
        (3 * tone(400), "1 clips of sounds-v1 are clipped at full scale: a.wav."),
        (tone(400, peak=0.99), ""),
    ],
)
def test_silent_and_clipped_clips_are_kept_and_reported(
    collection: Collection, caplog: pytest.LogCaptureFixture, samples: Waveform, finding: str
) -> None:
    soundfile.write(collection.folder / "a.wav", samples, RATE, subtype="FLOAT")
    packed = open_audio(collection)
    assert np.array_equal(codes(packed, 0), encode(samples.astype(np.float32), "mulaw"))
    assert finding in caplog.text
    assert bool(finding) == bool(caplog.text)


def test_an_unknown_quantizer_leaves_nothing(collection: Collection) -> None:
    with pytest.raises(ValueError, match="no quantizer 'mu-law'"):
        open_audio(collection, "mu-law")  # type: ignore[arg-type]
    assert not list(collection.folder.glob("*.json"))
