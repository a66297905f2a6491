"""Sampled WAV files: valid at any moment, ranked by likelihood, independent of batches and resumes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audio.data.quantizer import LEVELS, decode, encode
from audio.data.waveform import RATE, as_pcm, read_waveform, write_samples
from audio.models import AudioModelConfig, new_model, trained_model
from core.checkpoints.checkpoint import save_checkpoint
from core.decoding import sampling_run
from core.decoding.decoder import Decoder
from core.models.multiscale import MultiscaleModelConfig
from core.models.samplernn import SampleRnnConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNetConfig
from pipelines import audio_sample
from pipelines.common.config import schema_keys
from tests.audio.conftest import noise, tone
from tests.pipelines.conftest import PIECE

pytestmark = pytest.mark.usefixtures("short_pieces")

LENGTH = 48
SECONDS = f"seconds={LENGTH / RATE}"


def write_checkpoint(path: Path, classes: list[str], kind: Any = "unet") -> Path:
    """Return an untrained model that prefers some codes to others."""
    torch.manual_seed(0)
    shape = AudioModelConfig(
        kind,
        MultiscaleModelConfig(d_model=8, n_layer=1, pools=[2]),
        WaveNetConfig(d_model=8, d_skip=8, n_stack=1, n_layer=3),
        SampleRnnConfig(d_model=8, width=3, pools=[4]),
    ).with_classes(len(classes))
    model = new_model(shape)
    for parameter in model.parameters():
        parameter.data *= 2
    config = {"model": asdict(shape), "data": {"quantizer": "mulaw", "classes": classes}}
    save_checkpoint(path, model, config, {"step": 1})
    return path


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain") / "plain.safetensors", [])


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("classes") / "classes.safetensors", ["up", "down"])


def draw(checkpoint: Path, output: str, *arguments: str) -> list[dict[str, Any]]:
    """Return the index rows of a call."""
    call = [f"checkpoint={checkpoint}", f"output={output}", SECONDS, *arguments]
    assert audio_sample.main(call) == 0
    index = Path(output) / "samples.json" if Path(output).is_dir() else Path(output).with_suffix(".json")
    return json.loads(index.read_text())["samples"]


def sounds(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.wav"))]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error of a failing call, and check that it leaves no files."""
    before = sorted(Path().rglob("*"))
    assert audio_sample.main([*arguments]) == 1
    assert sorted(Path().rglob("*")) == before
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    return error[error.index("error: ") :]


def test_files_and_index(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = draw(plain, "out", "count=3")
    printed = capsys.readouterr()
    assert "out holds 3 clip(s) of 0.003 s. The most likely is sample_0000" in printed.out
    assert "real-time factor" in printed.err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *(f"sample_0000{number}.wav" for number in range(3)),
        "samples.json",
    ]
    assert len(set(sounds("out"))) == 3
    for row in rows:
        assert len(read_waveform(Path("out") / row["file"])) == LENGTH
        assert row["seconds"] == LENGTH / RATE
    index = json.loads(Path("out/samples.json").read_text())
    assert (index["quantizer"], index["rate"], index["sampling"]["temperature"]) == ("mulaw", RATE, 1.0)


@pytest.mark.parametrize("prompt", [False, True])
def test_rank_is_by_the_likelihood_of_what_was_drawn(prompt: bool, plain: Path) -> None:
    before = np.zeros(0, np.float32)
    if prompt:
        before = tone(30)
        soundfile.write("prompt.wav", before, RATE)
    rows = draw(plain, "out", "count=4", *(["prompt=prompt.wav"] if prompt else []))
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    nats = [row["log_likelihood"] for row in rows]
    assert nats == sorted(nats, reverse=True)

    model = trained_model(plain, torch.device("cpu"))
    for row in rows:
        waveform = read_waveform(Path("out") / row["file"])
        codes = encode(torch.from_numpy(waveform), "mulaw").long()
        assert torch.equal(codes[: len(before)], encode(torch.from_numpy(before), "mulaw").long())
        inputs = torch.cat([torch.tensor([model.first_symbol()]), codes[:-1]])
        log_probability = model.model(inputs[None])[0].log_softmax(-1).gather(-1, codes[:, None])
        expected = float(log_probability[len(before) :].detach().sum())
        assert row["log_likelihood"] == pytest.approx(expected, abs=0.01)
        assert row["bits_per_sample"] == pytest.approx(-expected / LENGTH / 0.693147, abs=1e-3)


def test_a_sample_is_the_same_in_any_batch_and_piece(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(plain, "whole", "count=5", "seed=3")
    pairs = draw(plain, "pairs", "count=5", "seed=3", "batch_size=2")
    assert [row["file"] for row in pairs] == [row["file"] for row in rows]
    for name in ("SHORTEST_SEGMENT", "FIRST_SEGMENT", "LONGEST_SEGMENT"):
        monkeypatch.setattr(sampling_run, name, 7)
    draw(plain, "few", "count=2", "seed=3")
    draw(plain, "other", "count=5", "seed=4")
    assert sounds("pairs") == sounds("whole")
    assert sounds("few") == sounds("whole")[:2]
    assert not set(sounds("other")) & set(sounds("whole"))


def test_sampling_options_count(plain: Path) -> None:
    draw(plain, "greedy", "count=2", "sampling.temperature=0")
    draw(plain, "top", "sampling.top_k=1")
    draw(plain, "nucleus", "sampling.top_p=1e-9")
    draw(plain, "floor", "sampling.min_p=1")
    greedy = sounds("greedy")
    assert greedy[0] == greedy[1]
    assert sounds("top") == sounds("nucleus") == sounds("floor") == greedy[:1]


@pytest.mark.parametrize(("precision", "half"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_precision_is_that_of_every_piece(
    precision: str, half: bool, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    class Watched(Decoder):
        def advance(self, steps: int) -> Any:
            seen.add(torch.is_autocast_enabled("cpu"))
            return super().advance(steps)

    monkeypatch.setattr(sampling_run, "Decoder", Watched)
    draw(plain, "out", f"precision={precision}")
    assert seen == {half}


def test_classes_are_taken_in_turn(conditional: Path) -> None:
    rows = draw(conditional, "all", "count=4")
    assert {row["sample"]: row["label"] for row in rows} == {0: "up", 1: "down", 2: "up", 3: "down"}
    rows = draw(conditional, "down", "count=4", "labels=[down]")
    assert {row["label"] for row in rows} == {"down"}
    assert sounds("down")[1::2] == sounds("all")[1::2]
    assert sounds("down")[0] != sounds("all")[0]


@pytest.mark.parametrize("known", [1, 3, 20])
def test_a_prompt_is_continued(plain: Path, known: int, capsys: pytest.CaptureFixture[str]) -> None:
    draw(plain, "whole", "seed=1")
    waveform = read_waveform("whole/sample_00000.wav")
    soundfile.write("prompt.wav", waveform[:known], RATE)
    rows = draw(plain, "rest.wav", "seed=1", "prompt=prompt.wav", f"seconds={(LENGTH - known) / RATE}")
    assert np.array_equal(read_waveform("rest.wav"), waveform)
    assert rows[0]["seconds"] == round((LENGTH - known) / RATE, 6)
    is_reported = (
        f"prompt.wav has {known} sample(s) at 16,000 Hz, fewer than the 4" in capsys.readouterr().err
    )
    assert is_reported == (known < 4)


def test_a_prompt_of_another_rate_is_converted(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("prompt.wav", np.stack([noise(441)] * 2, axis=1), 44_100)
    draw(plain, "out.wav", "prompt=prompt.wav")
    message = "prompt.wav has 44,100 samples per second and 2 channel(s); it is converted to 16,000 and 1"
    assert message in capsys.readouterr().err
    assert len(read_waveform("out.wav")) == 160 + LENGTH


def test_a_sample_to_stdout(plain: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    soundfile.write("prompt.wav", tone(30), RATE)
    call = [f"checkpoint={plain}", SECONDS, "prompt=prompt.wav"]
    assert audio_sample.main([*call, "output=-"]) == 0
    piped = capsysbinary.readouterr()
    assert b"real-time factor" in piped.err
    Path("piped.wav").write_bytes(piped.out)
    assert audio_sample.main([*call, "output=file.wav"]) == 0
    assert np.array_equal(read_waveform("piped.wav"), read_waveform("file.wav"))
    assert not Path("samples").exists()


def test_a_player_that_is_closed_ends_the_stream(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with io.TextIOWrapper(os.fdopen(write_end, "wb")) as player:
        monkeypatch.setattr(sys, "stdout", player)
        assert audio_sample.main([f"checkpoint={plain}", "seconds=1000", "output=-"]) == 0
    assert "error" not in capsys.readouterr().err


def test_pieces_are_bounded(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, drawn = [], []
    advance: Callable[..., Any] = Decoder.advance

    def watched_write(path: Path, start: int, waveform: Any) -> None:
        written.append(len(waveform))
        write_samples(path, start, waveform)

    def watched_advance(self: Decoder, steps: int) -> Any:
        drawn.append(steps)
        return advance(self, steps)

    monkeypatch.setattr(audio_sample, "write_samples", watched_write)
    monkeypatch.setattr(sampling_run.Decoder, "advance", watched_advance)
    draw(plain, "out", "count=2")
    assert max(written) == PIECE
    assert sum(written) == 2 * LENGTH
    assert drawn == [PIECE, PIECE, PIECE, LENGTH - 3 * PIECE]


def interrupt_at(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise SIGINT during the first write of samples from `start` on."""
    signals = [signal.SIGINT]

    def interrupted_write(path: Path, at: int, waveform: Any) -> None:
        write_samples(path, at, waveform)
        if at == start and signals:
            signal.raise_signal(signals.pop())

    monkeypatch.setattr(audio_sample, "write_samples", interrupted_write)


@pytest.mark.parametrize("prompt", [False, True])
def test_ctrl_c_and_resume(
    prompt: bool, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write("prompt.wav", tone(30), RATE)
    options = ["count=5", "batch_size=2", *(["prompt=prompt.wav"] if prompt else [])]
    rows = draw(plain, "whole", *options)
    call = [f"checkpoint={plain}", "output=cut", SECONDS, *options]
    with monkeypatch.context() as patch:
        interrupt_at(PIECE + 30 * prompt, patch)
        assert audio_sample.main(call) == 130
    error = capsys.readouterr().err
    assert "Stopped after 30 of 48 samples in samples 0 to 1 of 5. Start the same command" in error
    assert "real-time factor" in error
    for path in Path("cut").glob("*.wav"):
        begun = read_waveform(Path("whole") / path.name)[: 30 + 30 * prompt]
        assert np.array_equal(read_waveform(path), begun)

    assert "already exists" in fails(capsys, *call)
    write_samples(Path("cut/sample_00000.wav"), 30 + 30 * prompt, noise(20))  # as a killed process leaves it
    assert draw(plain, "cut", *options, "resume=true") == rows
    assert sounds("cut") == sounds("whole")
    assert sorted(path.name for path in Path("cut").iterdir()) == sorted(
        path.name for path in Path("whole").iterdir()
    )


KILLED = f"""
import os, signal, sys
import torch
from pipelines import audio_sample
from core.decoding import sampling_run

torch.set_num_threads(1)
sampling_run.SHORTEST_SEGMENT = sampling_run.FIRST_SEGMENT = sampling_run.LONGEST_SEGMENT = {PIECE}
write_samples = audio_sample.write_samples

def last_write(path, start, waveform):
    write_samples(path, start, waveform)
    if start == {2 * PIECE}:
        os.kill(os.getpid(), signal.SIGKILL)

audio_sample.write_samples = last_write
audio_sample.main(sys.argv[1:])
"""


def test_a_kill_and_resume(plain: Path) -> None:
    call = [f"checkpoint={plain}", SECONDS, "count=3", "save_every=0"]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *call, "output=cut"], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert [len(read_waveform(path)) for path in sorted(Path("cut").glob("*.wav"))] == [45, 30, 30]
    rows = draw(plain, "whole", "count=3")
    assert draw(plain, "cut", "count=3", "resume=true") == rows
    assert sounds("cut") == sounds("whole")


@pytest.mark.parametrize("kind", ["wavenet", "samplernn"])
def test_a_baseline_is_drawn_from_and_resumed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(Path("baseline.safetensors"), [], kind)
    rows = draw(checkpoint, "whole", "count=2")
    with monkeypatch.context() as patch:
        interrupt_at(PIECE, patch)
        call = [f"checkpoint={checkpoint}", "output=cut", SECONDS, "count=2"]
        assert audio_sample.main(call) == 130
    assert draw(checkpoint, "cut", "count=2", "resume=true") == rows
    assert sounds("cut") == sounds("whole")


def test_resume_begins_and_ends_gracefully(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = draw(plain, "out", "count=2", "resume=true")
    before = sounds("out")
    assert draw(plain, "out", "count=2", "resume=true") == rows
    assert sounds("out") == before
    call = [f"checkpoint={plain}", "output=out", SECONDS, "resume=true"]
    assert "count is 2 there and 1 here" in fails(capsys, *call)


def test_samples_of_a_checkpoint_by_name_go_into_its_run_folder(plain: Path) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    shutil.copy(plain, "run/checkpoints/best.safetensors")
    assert audio_sample.main(["checkpoint=run/checkpoints/best.safetensors", SECONDS]) == 0
    assert len(sounds("run/samples")) == 1


def test_samples_that_were_deleted_are_drawn_again(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = draw(plain, "out", "count=2")
    before = sounds("out")
    Path("out/sample_00001.wav").unlink()
    assert draw(plain, "out", "count=2", "resume=true") == rows
    assert sounds("out") == before

    (row,) = draw(plain, "x.wav")
    Path("x.wav").unlink()
    call = [f"checkpoint={plain}", "output=x.wav", SECONDS]
    capsys.readouterr()
    assert "x.json already exists. Set resume=true" in fails(capsys, *call)
    assert draw(plain, "x.wav", "resume=true") == [row]
    assert len(read_waveform("x.wav")) == LENGTH


def test_a_state_of_another_run_is_rejected(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [f"checkpoint={plain}", "output=out.wav", SECONDS]
    with monkeypatch.context() as patch:
        interrupt_at(0, patch)
        assert audio_sample.main(call) == 130
    capsys.readouterr()
    message = fails(capsys, *call, "resume=true", "seed=1")
    assert "out.state.safetensors is from a run with other settings: seed is 0 there and 1 here" in message
    Path("out.wav").write_bytes(Path("out.wav").read_bytes()[:60])
    assert "it was changed" in fails(capsys, *call, "resume=true")
    state = Path("out.state.safetensors")
    state.write_bytes(state.read_bytes()[:100])
    assert "out.state.safetensors is damaged" in fails(capsys, *call, "resume=true")


def test_a_batch_that_does_not_fit_is_halved(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = draw(plain, "whole", "count=5")
    largest = 2

    class SmallMemory(Decoder):
        def advance(self, steps: int) -> Any:
            if self.count > largest and self.position > PIECE:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().advance(steps)

    monkeypatch.setattr(sampling_run, "Decoder", SmallMemory)
    rows = draw(plain, "halved", "count=5")
    error = capsys.readouterr().err
    assert "5 samples at once do not fit into memory; continuing with 2." in error
    assert sounds("halved") == sounds("whole")
    assert [row["file"] for row in rows] == [row["file"] for row in whole]
    largest = 0
    call = [f"checkpoint={plain}", "output=none", SECONDS]
    assert audio_sample.main(call) == 1
    assert "One sample does not fit into memory" in capsys.readouterr().err


def test_a_disk_that_fills_leaves_valid_files(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, start: int, waveform: Any) -> None:
        if start == 2 * PIECE:
            raise OSError(28, "No space left on device", str(path))
        write_samples(path, start, waveform)

    monkeypatch.setattr(audio_sample, "write_samples", full)
    assert audio_sample.main([f"checkpoint={plain}", "output=out", SECONDS, "count=2"]) == 1
    assert "No space left on device: out/sample_00000.wav" in capsys.readouterr().err
    assert [len(read_waveform(path)) for path in sorted(Path("out").glob("*.wav"))] == [2 * PIECE] * 2


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        audio_sample.main(["--help"])
    page = capsys.readouterr().out
    for key in schema_keys(audio_sample.Config):
        assert f"  {key}  (" in page


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("count=0", "count is 0"),
        ("batch_size=0", "batch_size is 0"),
        ("save_every=-1", "save_every is -1"),
        ("seconds=0", "seconds is 0"),
        ("seconds=.inf", "seconds is inf"),
        ("seconds=.nan", "seconds is nan"),
        ("seconds=1e6", "a WAV file holds at most 37 hours"),
        ("sampling.temperature=-1", "temperature is -1"),
        ("sampling.top_k=0", "top_k is 0"),
        ("sampling.top_p=1.5", "top_p is 1.5"),
        ("sampling.min_p=-0.1", "min_p is -0.1"),
        ("labels=[up]", "The model has no class up. It has no classes"),
        ("prompt=absent.wav", "There is no audio file absent.wav"),
        ("prompt=empty.wav", "empty.wav holds no samples"),
        ("prompt=text.wav", "text.wav cannot be read as audio"),
        ("temperature=1", "Did you mean sampling.temperature"),
    ],
)
def test_bad_argument(argument: str, message: str, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("empty.wav", noise(0), RATE)
    Path("text.wav").write_text("no sound")
    assert message in fails(capsys, f"checkpoint={plain}", "output=out", argument)


def test_bad_output(plain: Path, conditional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = [f"checkpoint={plain}", SECONDS]
    Path("file").write_text("")
    assert "file/out cannot be created (Not a directory)" in fails(capsys, *start, "output=file/out")
    assert "output=x.wav takes one sample, but count is 2" in fails(capsys, *start, "output=x.wav", "count=2")
    assert "output=- takes one sample" in fails(capsys, *start, "output=-", "count=2")
    for name in ("x.mp3", "x.flac", "x.WAV"):
        assert "Choose a name that ends in .wav" in fails(capsys, *start, f"output={name}")
        assert not Path(name).exists()
    error = fails(capsys, *start, "output=-", "resume=true")
    assert "output=- cannot be resumed; choose a file" in error
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("")
    assert "taken already exists and is not empty" in fails(capsys, *start, "output=taken")
    assert "no class eleven. Its classes are up, down" in fails(
        capsys, f"checkpoint={conditional}", "output=out", "labels=[eleven]"
    )


def test_bad_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    shape = SequenceModelConfig(vocab_size=12, d_model=8, n_layer=1)
    save_checkpoint(Path("dna.safetensors"), SequenceModel(shape), {"model": asdict(shape)}, {"step": 1})
    assert "checkpoint of audio_pretrain" in fails(capsys, "checkpoint=dna.safetensors", "output=out")
    assert "There is no checkpoint absent" in fails(capsys, "checkpoint=absent", "output=out")
    assert "checkpoint must be given" in fails(capsys)


def test_what_is_written_is_what_the_codes_mean(plain: Path) -> None:
    draw(plain, "out.wav")
    samples = as_pcm(read_waveform("out.wav"))
    assert set(samples.tolist()) <= set(as_pcm(decode(np.arange(LEVELS), "mulaw")).tolist())
