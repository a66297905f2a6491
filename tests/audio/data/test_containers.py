"""Wrong sizes in headers are repaired, truncated files are refused, and no header crashes the reader."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.data.waveform import RATE, as_pcm, length_and_rate, read_recording, read_waveform
from tests.audio.conftest import noise

SAMPLES = noise(50)
UNKNOWN = 0xFFFF_FFFF


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    """Return a chunk without pad byte. size: size that the header states."""
    return name + struct.pack("<I", len(content) if size is None else size) + content


def wav(*chunks: bytes, size: int | None = None) -> bytes:
    """Return a WAV file. size: size of the whole that the header states; None: the right one."""
    content = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content) if size is None else size) + content


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
PCM = as_pcm(SAMPLES).tobytes()
DATA = chunk(b"data", PCM)
LIST = chunk(b"LIST", b"INFOISFT")
RIGHT = len(wav(FORMAT, DATA)) - 8

READABLE = {
    "right": wav(FORMAT, DATA),
    "size 8 too large": wav(FORMAT, DATA, size=RIGHT + 8),
    "size 8 too small": wav(FORMAT, DATA, size=RIGHT - 8),
    "size 0": wav(FORMAT, DATA, size=0),
    "size unknown": wav(FORMAT, DATA, size=UNKNOWN),
    "both sizes 0": wav(FORMAT, chunk(b"data", PCM, 0), size=0),
    "sizes of no samples": wav(FORMAT, chunk(b"data", PCM, 0), size=36),
    "both sizes unknown": wav(FORMAT, chunk(b"data", PCM, UNKNOWN), size=UNKNOWN),
    "unknown size of samples": wav(FORMAT, chunk(b"data", PCM, UNKNOWN)),
    "both sizes of a sox pipe": wav(FORMAT, chunk(b"data", PCM, 0x7FFF_FFFF - 36), size=0x7FFF_FFFF),
    "cut LIST after the samples": wav(FORMAT, DATA, LIST[:-3], size=RIGHT + len(LIST)),
    "LIST with a size beyond the end": wav(FORMAT, DATA, chunk(b"LIST", b"INFO", 1 << 20)),
    "LIST before the samples": wav(FORMAT, LIST, DATA),
    "no pad byte before the samples": wav(FORMAT, chunk(b"junk", b"abc"), DATA),
    "pad byte before the samples": wav(FORMAT, chunk(b"junk", b"abc"), b"\0", DATA),
}


@pytest.mark.parametrize("name", READABLE)
def test_samples_are_those_of_the_data_chunk(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(READABLE[name])
    assert np.array_equal(read_waveform(path), SAMPLES)
    assert length_and_rate(path) == (50, RATE)


def test_a_missing_pad_byte_after_the_samples_is_no_damage(tmp_path: Path) -> None:
    layout = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE, 1, 8))
    content = wav(layout, chunk(b"data", bytes(range(100, 151))))
    (tmp_path / "x.wav").write_bytes(content)
    expected = read_waveform(tmp_path / "x.wav")
    (tmp_path / "x.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 7) + content[8:])
    assert len(expected) == 51
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), expected)


REFUSED = {
    "samples cut": (wav(FORMAT, DATA)[:-20], "truncated"),
    "samples cut, size right": (wav(FORMAT, chunk(b"data", PCM, len(PCM) + 20)), "truncated"),
    "chunk before the samples cut": (wav(FORMAT, LIST, DATA)[:45], "truncated"),
    "no samples": (wav(FORMAT, chunk(b"data", b"")), "holds no samples"),
    "no format": (wav(DATA), "cannot be read as audio"),
    "rate 1": (wav(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 1, 2, 2, 16)), DATA), "has 1 samples per"),
    "rate 2e9": (wav(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 2**31 - 1, 2, 2, 16)), DATA), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_rejected_by_name(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} .*") as error:
        read_waveform(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("x.mp3", {"format": "MP3"}, 0.1),
        ("x.aiff", {}, 1e-4),
        ("x.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
        ("x.ogg", {}, 0.1),
    ],
)
def test_other_formats_are_read_and_their_truncation_is_noticed(
    name: str, options: dict[str, str], error: float, tmp_path: Path
) -> None:
    sound = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    path = tmp_path / name
    soundfile.write(path, sound, RATE, **options)
    read = read_recording(path)
    assert (len(read.waveform), read.rate, read.channels) == (len(sound), RATE, 1)
    assert np.abs(read.waveform - sound).mean() < error
    content = path.read_bytes()
    for share in (0.99, 0.5, 0.2):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=rf"^{path} is truncated"):
            read_waveform(path)


def fuzz_reader(path: Path, read: Callable[[Path], object]) -> None:
    """Call a reader; it may succeed, or raise ValueError or OSError with the name of the file."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        assert path.name in f"{error} {getattr(error, 'filename', '')}"  # noqa: PT017


BASES = [
    wav(FORMAT, DATA),
    wav(chunk(b"fmt ", struct.pack("<HHIIHH", 3, 2, 44_100, 8 * 44_100, 8, 32)), chunk(b"data", bytes(160))),
    wav(FORMAT, LIST, chunk(b"junk", b"abc"), b"\0", DATA, LIST),
    b"FORM" + struct.pack(">I", 46) + b"AIFF" + bytes(60),
    b"OggS" + bytes(60),
]


@settings(max_examples=300, derandomize=True)
@given(
    base=st.sampled_from(BASES),
    edits=st.lists(st.tuples(st.integers(0, 80), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.none() | st.integers(0, 120),
)
def test_any_header_is_read_or_rejected_by_name(
    base: bytes, edits: list[tuple[int, bytes]], length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(base)
    for place, text in edits:
        content[place : place + len(text)] = text
    path = tmp_path_factory.getbasetemp() / "fuzzed.wav"
    path.write_bytes(content[:length])
    fuzz_reader(path, read_waveform)
    fuzz_reader(path, length_and_rate)
