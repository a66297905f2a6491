"""Audio files are read as mono at 16 kHz or refused; written WAV files are valid at any moment."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audio.data import waveform
from audio.data.waveform import (
    RATE,
    as_pcm,
    read_waveform,
    resample,
    stream_header,
    write_samples,
    write_waveform,
)
from tests.audio.conftest import noise, tone


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("x.wav", "PCM_16"), ("x.wav", "PCM_24"), ("x.wav", "FLOAT"), ("x.flac", "PCM_16"), ("X.WAV", "DOUBLE")],
)
def test_lossless_files_are_read_exactly(tmp_path: Path, name: str, subtype: str) -> None:
    samples = noise(999)
    soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
    read = read_waveform(tmp_path / name)
    assert read.dtype == np.float32
    assert np.array_equal(read, samples)


def test_ogg_is_read_nearly(tmp_path: Path) -> None:
    samples = tone(8000)
    soundfile.write(tmp_path / "x.ogg", samples, RATE)
    assert np.abs(read_waveform(tmp_path / "x.ogg") - samples).max() < 0.02


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    samples = np.stack([noise(100, seed) for seed in range(channels)], axis=1)
    soundfile.write(tmp_path / "x.wav", samples, RATE)
    np.testing.assert_allclose(read_waveform(str(tmp_path / "x.wav")), samples.mean(axis=1), atol=1e-7)


def test_a_file_longer_than_a_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audio.data.waveform.BLOCK", 7)
    soundfile.write(tmp_path / "x.wav", noise(50), RATE)
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), noise(50))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    seconds = 0.25
    soundfile.write(tmp_path / "x.wav", tone(int(seconds * rate), 1000, rate), rate, subtype="FLOAT")
    read = read_waveform(tmp_path / "x.wav")
    assert len(read) == -(-int(seconds * rate) * RATE // rate)
    inner = slice(500, len(read) - 500)  # the ends are next to silence
    assert np.abs(read - tone(len(read), 1000))[inner].max() < 1e-4


def test_what_16_khz_cannot_hold_is_filtered_out() -> None:
    inside, outside = (resample(tone(12_000, hertz, 48_000), 48_000)[500:-500] for hertz in (7000, 9000))
    assert np.abs(inside).max() > 0.49
    assert np.abs(outside).max() < 1e-4


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_shortest_files_are_read(tmp_path: Path, length: int) -> None:
    for rate in (RATE, 44_100):
        soundfile.write(tmp_path / "x.wav", np.full(length, 0.1), rate)
        assert len(read_waveform(tmp_path / "x.wav")) == -(-length * RATE // rate)


def test_silent_clipped_and_loud_files_are_what_they_are(tmp_path: Path) -> None:
    for samples in (np.zeros(100), np.sign(tone(100)), 3 * tone(100)):
        soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
        assert np.array_equal(read_waveform(tmp_path / "x.wav"), samples.astype(np.float32))


def _write(path: Path, samples: np.ndarray, rate: int = RATE, keep: float = 1.0, **options: str) -> None:
    soundfile.write(path, samples, rate, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as audio .*is damaged or not a WAV"),
    "text": (lambda path: path.write_text("zero one two"), "cannot be read as audio"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html>"), "cannot be read as audio"),
    "no samples": (lambda path: _write(path, np.zeros(0)), "holds no samples"),
    "cut WAV": (lambda path: _write(path, noise(500), keep=0.6), "truncated: shorter than its header"),
    "cut in its header": (lambda path: _write(path, noise(500), keep=0.02), "truncated"),
    "cut FLAC": (lambda path: _write(path, noise(9000), keep=0.5, format="FLAC"), "cannot be read as audio"),
    "NaN": (
        lambda path: _write(path, np.where(np.arange(50) == 7, np.nan, 0.1), subtype="FLOAT"),
        "NaN or infinity, first at sample 7",
    ),
    "infinity in one of two channels": (
        lambda path: _write(path, np.array([[0, 0], [0, -np.inf]]), subtype="DOUBLE"),
        "NaN or infinity, first at sample 1",
    ),
    "strange rate": (lambda path: _write(path, noise(50), 44_099), "44,099 samples per second, .* no simple"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_rejected_by_name_in_one_sentence(tmp_path: Path, kind: str) -> None:
    make, message = BAD_FILES[kind]
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(ValueError, match=rf"^{path} (?s:.*){message}") as caught:
        read_waveform(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    for path in (tmp_path / "x.wav", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"There is no audio file {path}"):
            read_waveform(path)


def test_a_wav_of_unknown_size_from_a_pipe_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", noise(50), RATE)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    (tmp_path / "x.wav").write_bytes(content)
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), noise(50))


@given(integers=st.lists(st.integers(-(2**15), 2**15 - 1)))
def test_16_bit_samples_come_back_from_floats(integers: list[int]) -> None:
    assert as_pcm(np.array(integers, np.float32) / 2**15).tolist() == integers


def test_floats_become_the_nearest_16_bit_sample() -> None:
    assert as_pcm(np.array([0.6, 0.4, -0.4, -0.6]) / 2**15).tolist() == [1, 0, 0, -1]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    loud = np.concatenate([noise(100), np.array([1.5, -1.5, 1.0], np.float32)])
    write_waveform(tmp_path / "x.wav", loud)
    info = soundfile.info(tmp_path / "x.wav")
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), np.clip(loud, -1, 1 - 2**-15))
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_waveform(tmp_path / "x.wav", noise(10))
    before = (tmp_path / "x.wav").read_bytes()
    with pytest.raises(ValueError, match="NaN or infinity, so it was not written"):
        write_waveform(tmp_path / "x.wav", np.array([np.nan], np.float32))

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("audio.data.waveform.soundfile.write", full)
    with pytest.raises(OSError, match="No space left"):
        write_waveform(tmp_path / "x.wav", noise(20))
    assert (tmp_path / "x.wav").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_a_file_is_valid_after_every_piece(tmp_path: Path) -> None:
    whole, path = noise(1000), tmp_path / "x.wav"
    write_samples(path, 0, whole[:0])
    assert soundfile.info(path).frames == 0
    for begin, end in [(0, 1), (1, 400), (400, 400), (400, 1000)]:
        write_samples(path, begin, whole[begin:end])
        assert np.array_equal(read_waveform(path), whole[:end])


def test_it_is_the_file_that_is_written_at_once(tmp_path: Path) -> None:
    write_samples(tmp_path / "x.wav", 0, noise(7))
    write_samples(tmp_path / "x.wav", 7, noise(10)[7:])
    write_waveform(tmp_path / "y.wav", noise(10))
    assert (tmp_path / "x.wav").read_bytes() == (tmp_path / "y.wav").read_bytes()


def test_what_follows_the_start_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    write_samples(path, 0, noise(100))
    write_samples(path, 40, noise(5, seed=1))
    assert np.array_equal(read_waveform(path), np.concatenate([noise(100)[:40], noise(5, seed=1)]))
    write_samples(path, 0, noise(3, seed=2))
    assert np.array_equal(read_waveform(path), noise(3, seed=2))
    assert path.stat().st_size == 44 + 2 * 3


def test_bad_pieces_leave_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    write_samples(path, 0, noise(100))
    with pytest.raises(ValueError, match=r"x.wav holds fewer than 101 samples"):
        write_samples(path, 101, noise(5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_samples(path, 100, np.array([0.0, np.inf], np.float32))
    monkeypatch.setattr(waveform, "LARGEST", 110)
    with pytest.raises(ValueError, match="would hold 111 samples; a WAV file holds at most 110"):
        write_samples(path, 100, noise(11))
    assert np.array_equal(read_waveform(path), noise(100))


def test_a_disk_that_fails_is_named_by_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory") as error:
        write_samples(tmp_path / "absent" / "x.wav", 0, noise(5))
    assert error.value.filename == str(tmp_path / "absent" / "x.wav")


def _die_before_the_header(path: Path) -> None:
    write_samples(path, 0, noise(30))

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    waveform._header = killed
    waveform._truncate = lambda file, *_: file.seek(0, 2)
    write_samples(path, 30, noise(20))


def test_a_writer_that_is_killed_leaves_what_the_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    process = multiprocessing.get_context("fork").Process(target=_die_before_the_header, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.stat().st_size == 44 + 2 * 50
    assert np.array_equal(read_waveform(path), noise(30))
    write_samples(path, 30, noise(20))
    assert np.array_equal(read_waveform(path), np.concatenate([noise(30), noise(20)]))


def test_a_pipe_carries_as_many_samples_as_come(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(stream_header() + as_pcm(noise(50)).tobytes())
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), noise(50))
    samples, rate = soundfile.read(io.BytesIO((tmp_path / "x.wav").read_bytes()), dtype="float32")
    assert (rate, len(samples)) == (RATE, 50)
