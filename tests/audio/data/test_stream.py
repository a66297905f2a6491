"""A WAV file that grows is valid after every piece, also when its writer is killed, and can be cut back."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.data import stream
from audio.data.stream import piped_header, write_samples
from audio.data.waveform import RATE, as_pcm, read_waveform, write_waveform
from tests.audio.conftest import noise


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
    with pytest.raises(ValueError, match=r"x.wav holds less than the 101 samples"):
        write_samples(path, 101, noise(5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_samples(path, 100, np.array([0.0, np.inf], np.float32))
    monkeypatch.setattr(stream, "LARGEST", 110)
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

    stream._header = killed
    stream._cut = lambda file, *_: file.seek(0, 2)
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
    (tmp_path / "x.wav").write_bytes(piped_header() + as_pcm(noise(50)).tobytes())
    assert np.array_equal(read_waveform(tmp_path / "x.wav"), noise(50))
    samples, rate = soundfile.read(io.BytesIO((tmp_path / "x.wav").read_bytes()), dtype="float32")
    assert (rate, len(samples)) == (RATE, 50)
