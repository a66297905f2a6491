"""Length curve: the same scored samples at every length, with exactly the stated context."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from audio.data.config import collection
from audio.data.pack import open_audio
from audio.models import trained_model, training_data_config
from pipelines import audio_length


def test_each_row_is_the_definition(audio_run: Path) -> None:
    arguments = [f"checkpoint={audio_run}", "scored=5", "lengths=[5,11,40]", "output=curve"]
    assert audio_length.main(arguments) == 0
    table = json.loads(Path("curve/length_curve.json").read_text())
    assert Path("curve/length_curve.png").exists()
    audio = open_audio(collection(training_data_config(audio_run)))
    model = trained_model(audio_run, torch.device("cpu")).model
    held_out = [clip for clip in audio.clips if clip.split == "valid"]
    for row in table["rows"]:
        nats = []
        for clip in held_out:
            window = torch.from_numpy(audio.codes[clip.start : clip.start + 40].copy()).long()
            targets = window[40 - row["length"] :]
            with torch.no_grad():
                logits = model(torch.cat([torch.tensor([128]), targets[:-1]])[None])[0]
            nats.append(cross_entropy(logits[-5:], targets[-5:]))
        expected = torch.stack(nats).mean() / torch.tensor(2.0).log()
        assert row["bits_per_sample"] == pytest.approx(expected.item(), rel=1e-5)
        assert row["samples"] == 5 * len(held_out)


def test_lengths_are_doubled_by_default(audio_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"checkpoint={audio_run}", "scored=12", "split=test", "output=curve"]
    assert audio_length.main(arguments) == 0
    rows = json.loads(Path("curve/length_curve.json").read_text())["rows"]
    assert [row["length"] for row in rows] == [12, 24, 48]
    assert f"{48:>9}  {rows[-1]['bits_per_sample']:.4f}" in capsys.readouterr().out


def test_a_checkpoint_by_name_leaves_its_curve_in_the_run_folder(audio_run: Path) -> None:
    shutil.copytree(audio_run, "run")
    best = "checkpoint=run/checkpoints/best.safetensors"
    assert audio_length.main([best, "scored=5", "lengths=[5]"]) == 0
    assert all((Path("run") / name).is_file() for name in (audio_length.TABLE, audio_length.PICTURE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scored=0"], "scored is 0"),
        (["windows=0"], "error: windows is 0; it must be at least 1, or null for all"),
        (["scored=8", "lengths=[4]"], "less than scored=8"),
        (["scored=1000"], "fewer than scored=1000"),
        (["lengths=[5000]"], "No window of 5,000 samples fits"),
        (["folder=absent"], "no folder absent"),
    ],
)
def test_bad_input(
    audio_run: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audio_length.main([f"checkpoint={audio_run}", "output=curve", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("curve").exists()
