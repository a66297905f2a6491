"""Training on waveforms, as a user runs it: resumed runs, packing, classes, baselines, and bad input."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from audio.data.quantizer import encode
from audio.data.waveform import RATE
from audio.models import AudioCheckpoint, trained_model
from core.checkpoints.checkpoint import CheckpointError
from core.models.multiscale import MultiscaleModel
from pipelines import audio_pretrain
from pipelines.common.config import CONFIGS, merge, parse_config, read_yaml, schema_keys
from tests.audio.conftest import noise, write_clips
from tests.pipelines.conftest import TINY_AUDIO
from tests.pipelines.test_dna_pretrain import ROOT, events

CPU = torch.device("cpu")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def model_of(run: Path) -> AudioCheckpoint:
    return trained_model(run, CPU)


def test_a_run_fills_its_folder(audio_run: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "loss_curve.png", "bits_by_position.png"):
        assert (audio_run / name).exists()
    table = json.loads((audio_run / "validation.json").read_text())
    assert (table["data"], table["quantizer"]) == ("fsdd", "mulaw")
    assert table["samples"] == sum(row["samples"] for row in table["by_position"])
    summary = json.loads((audio_run / "summary.json").read_text())
    assert summary["validation"]["bits_per_sample"] == pytest.approx(table["bits_per_sample"])
    assert 7.5 < table["bits_per_sample"] < 8.5


def test_its_checkpoint_is_a_model_of_waveforms(audio_run: Path) -> None:
    trained = model_of(audio_run)
    assert isinstance(trained.model, MultiscaleModel)
    assert not trained.model.training
    assert trained[1:] == ("mulaw", RATE, ())
    assert trained.first_symbol() == 128
    with pytest.raises(ValueError, match="no class four"):
        trained.first_symbol("four")


def test_resumed_equals_uninterrupted(audio_run: Path) -> None:
    shutil.copytree(audio_run, "killed")
    Path("killed/checkpoints/step-00000004.safetensors").unlink()
    Path("killed/summary.json").unlink()
    assert audio_pretrain.main(["run.dir=killed", "--resume"]) == 0
    final = "checkpoints/step-00000004.safetensors"
    resumed, uninterrupted = load_file(f"killed/{final}"), load_file(audio_run / final)
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
    assert events(Path("killed")) == events(audio_run)


def test_the_configuration_of_a_run_is_a_configuration(audio_run: Path) -> None:
    settings = read_yaml(str(audio_run / "config.yaml"))
    assert {setting.key for setting in settings} == set(schema_keys(audio_pretrain.Config))
    assert merge(audio_pretrain.Config, settings).model.unet.pools == [2, 3]


def test_packed_training_is_padded_training(audio_run: Path, clips: Path) -> None:
    arguments = [f"data.folder={clips}", *TINY_AUDIO, "train.ema=0.9", "run.dir=padded"]
    assert audio_pretrain.main(arguments) == 0
    for padded, packed in zip(events(Path("padded")), events(audio_run), strict=True):
        assert padded["loss"] == pytest.approx(packed["loss"], rel=1e-5)


def test_torchrun_shares_the_batch_and_changes_nothing(audio_run: Path, clips: Path) -> None:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pipelines.audio_pretrain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    arguments = [*TINY_AUDIO, f"data.folder={clips}", "data.packed=true", "train.ema=0.9", "run.dir=shared"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("clips     ") == 1
    for shared, alone in zip(events(Path("shared")), events(audio_run), strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=1e-5)


@pytest.mark.parametrize("packed", ["false", "true"])
def test_a_conditional_model_knows_its_classes(clips: Path, packed: str) -> None:
    arguments = [f"data.folder={clips}", *TINY_AUDIO, f"data.packed={packed}", "data.conditional=true"]
    assert audio_pretrain.main([*arguments, "run.dir=run"]) == 0
    trained = model_of(Path("run"))
    assert trained.classes == DIGITS
    assert trained.model.config.vocab_size == 266
    assert trained.first_symbol("nine") == 265
    for name in (None, "ten"):
        with pytest.raises(ValueError, match=rf"no class {name}\. Its classes are zero, one"):
            trained.first_symbol(name)


@pytest.mark.parametrize("kind", ["wavenet", "samplernn"])
def test_a_baseline_trains_and_loads(kind: str, clips: Path) -> None:
    arguments = [f"data.folder={clips}", *TINY_AUDIO, f"model.kind={kind}", "run.dir=run", "train.steps=2"]
    assert audio_pretrain.main(arguments) == 0
    model = model_of(Path("run")).model
    assert type(model).__name__.lower() == kind
    logits, _ = model.step(torch.tensor([128]), model.initial_state(1))
    assert logits.shape == (1, 256)


def test_one_clip_is_learnt_by_heart() -> None:
    """Reach almost 0 bits, which wrong padding or a wrong target shift would prevent."""
    soundfile.write("0_ann_10.wav", noise(100), RATE)
    learning = ["train.steps=80", "train.batch_size=1", "train.learning_rate=2e-2", "train.validate_every=80"]
    model = ["model.unet.d_model=32", "model.unet.d_state=8", "data.length=1000"]
    assert audio_pretrain.main([*TINY_AUDIO, *learning, *model, "data.folder=.", "run.dir=run"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["loss"] / math.log(2) < 0.05
    codes = torch.from_numpy(encode(noise(100), "mulaw")).long()
    with torch.no_grad():
        logits = model_of(Path("run")).model(torch.cat([torch.tensor([128]), codes[:-1]])[None])
    assert torch.equal(logits[0].argmax(dim=-1), codes)


def test_dry_run_prints_the_plan_and_writes_nothing(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audio_pretrain.main([*TINY_AUDIO, f"data.folder={clips}", "run.dir=run", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "fsdd in" in plan
    assert "18, 0 s at 16,000 Hz, quantizer mulaw" in plan
    assert "train     12 windows" in plan
    assert "4 steps of 4 windows, 1.33 epochs" in plan
    assert "% of the computation; data.packed=true avoids it" in plan
    assert list(Path().iterdir()) == []


def test_long_recordings_are_cut_into_whole_windows(capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(Path("music"), ["a.wav"], 1000)
    arguments = ["data.source=folder", "data.folder=music", "data.keep_rest=false", "--dry-run"]
    assert audio_pretrain.main([*TINY_AUDIO, *arguments]) == 0
    assert "train     14 windows, 840 samples, longest 60" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["sc09_small", "sc09_large", "youtubemix", "audio_ablation", "fsdd", "digits"]
)
def test_recipes(name: str) -> None:
    config = parse_config(audio_pretrain.Config, ["--config", name], "audio_pretrain", "")
    train, shape = config.train, config.model.unet
    assert config.run.dir == f"runs/{name}"
    assert config.data.quantizer == "mulaw"
    if name.startswith("sc09"):
        assert (train.steps, train.batch_size, train.learning_rate, train.clip) == (200_000, 16, 2e-3, 0.1)
        assert (shape.d_model, shape.n_layer) == {"sc09_small": (64, 8), "sc09_large": (96, 15)}[name]
        assert config.data.length == 16_000
    if name == "youtubemix":
        text = (CONFIGS / "youtubemix.yaml").read_text()
        (table,) = [line for line in text.splitlines() if " x " in line and "958464" in line]
        pairs = [tuple(map(int, pair.split(" x "))) for pair in table.strip("# ").split("   ")]
        assert [batch for _, batch in pairs] == [2**power for power in range(8)]
        assert all(length % (16 * 16 * 8) == 0 for length, _ in pairs)
        assert all(0.9e6 < length * batch < 1.1e6 for length, batch in pairs)
        assert (shape.d_model, shape.n_layer, shape.pools) == (64, 3, [16, 16])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error of a failing start, and check that no run folder exists."""
    assert audio_pretrain.main([*TINY_AUDIO, "run.dir=run", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert not Path("run").exists()
    return error


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["data.folder=absent"], "no folder absent"),
            (["data.source=sc09", "data.folder=."], "no validation_list.txt"),
            (["data.length=0"], "length"),
            (["data.keep_rest=false", "data.length=5000"], "No window of 5,000 samples fits"),
            (["data.validation_windows=0"], "data.validation_windows is 0"),
            (["data.quantizer=alaw"], "data.quantizer is 'alaw'; it must be"),
            (["data.sha256=0"], "holds other clips than expected"),
            (["data.source=folder", "data.conditional=true"], "data.conditional needs classes"),
            (["data.packed=true", "model.kind=wavenet"], "model.kind=wavenet does not support packed"),
            (
                ["data.packed=true", "train.backpropagation_length=8"],
                "train.backpropagation_length does not",
            ),
            (["model.unet.pools=[]"], "pools"),
            (["model.unet.outer.selective=[E]"], "selective"),
            (["model.kind=transformer"], "model.kind is 'transformer'; it must be"),
        ],
    )
    def test_configuration(
        self, arguments: list[str], message: str, clips: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert message in fails(capsys, f"data.folder={clips}", *arguments)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "cannot be read as audio"),
            (b"not audio", "cannot be read as audio"),
            (np.zeros((0, 1), np.float32), "holds no samples"),
            (np.full((50, 1), np.nan, np.float32), "holds NaN or infinity"),
        ],
        ids=["empty file", "text", "no samples", "NaN"],
    )
    def test_a_file_that_cannot_be_used(
        self, content: bytes | np.ndarray, message: str, clips: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(clips, "clips", ignore=shutil.ignore_patterns("*pack*"))
        path = Path("clips/3_bob_11.wav")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            soundfile.write(path, content, RATE, subtype="FLOAT")
        error = fails(capsys, "data.folder=clips")
        assert "1 of the 19 clips of fsdd cannot be used" in error
        assert f"{path} {message}" in error

    def test_silent_stereo_and_other_rates_are_read(self) -> None:
        write_clips(Path("clips"), ["0_ann_0.wav", "0_ann_5.wav"])
        soundfile.write("clips/0_ann_10.wav", np.zeros(50, np.float32), RATE)
        soundfile.write("clips/1_ann_10.wav", np.stack([noise(50), noise(50, 1)], axis=1), RATE)
        soundfile.write("clips/2_ann_10.wav", noise(50), 8000)
        assert audio_pretrain.main([*TINY_AUDIO, "data.folder=clips", "run.dir=run"]) == 0

    def test_a_folder_without_audio(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("notes").mkdir()
        Path("notes/readme.txt").write_text("none")
        assert "notes holds no audio" in fails(capsys, "data.folder=notes")

    def test_without_clips_to_train_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        write_clips(Path("clips"), ["0_ann_0.wav", "0_ann_5.wav"])
        assert "fsdd has no clips for train" in fails(capsys, "data.folder=clips")

    def test_a_checkpoint_of_another_kind(self, run: Path) -> None:
        with pytest.raises(CheckpointError, match=r"its model is not one of waveforms.*audio_pretrain"):
            model_of(run)

    def test_a_model_that_is_not_the_run_s(self, audio_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert audio_pretrain.main([f"run.dir={audio_run}", "--resume", "model.kind=wavenet"]) == 1
        assert "does not support packed windows" in capsys.readouterr().err
        assert audio_pretrain.main([f"run.dir={audio_run}", "--resume", "model.unet.d_model=8"]) == 1
        assert "model.unet.d_model is 4 there and 8 here" in capsys.readouterr().err


def test_the_run_s_own_configuration_names_its_clips(audio_run: Path) -> None:
    config = OmegaConf.load(audio_run / "config.yaml")
    assert len(config.data.sha256) == 64
    assert config.data.classes == []
