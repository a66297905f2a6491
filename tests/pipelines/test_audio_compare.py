"""Comparison of models: equal training times, resumed runs, and bits on test clips."""

import json
from pathlib import Path

import pytest
import torch

from audio.data.config import open_audio_data
from audio.data.windows import clip_windows
from audio.evaluation.likelihood import likelihood
from audio.models import AudioModelConfig, new_model, trained_model, training_data_config
from core.models.multiscale import MixerConfig, MultiscaleModelConfig
from core.models.wavenet import WaveNetConfig
from core.training import World
from pipelines import audio_compare
from pipelines.audio_compare import Contender, ablation, contenders

SMALL = {"d_model": 4, "n_layer": 1, "pools": [2], "d_state": 4}
ALONE = World(0, 1, torch.device("cpu"))


def tiny(kind: MixerConfig) -> AudioModelConfig:
    return AudioModelConfig("unet", unet=MultiscaleModelConfig(**SMALL, outer=kind, centre=kind))


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    wavenet = AudioModelConfig("wavenet", wavenet=WaveNetConfig(d_model=4, d_skip=4, n_stack=1, n_layer=2))
    models = [Contender("mamba", tiny(MixerConfig()), 2e-3), Contender("wavenet", wavenet, 1e-3)]
    monkeypatch.setattr(audio_compare, "contenders", lambda: models)
    monkeypatch.setattr(audio_compare, "ablation", lambda: [Contender("+ S6, C", tiny(MixerConfig()), 2e-3)])
    monkeypatch.setattr(audio_compare, "PROBE_STEPS", 2)


def compare(clips: Path, *arguments: str) -> int:
    brief = ["data.length=40", "train.batch_size=2", "seconds=0.2", "ablation_seconds=0.1"]
    return audio_compare.main([f"data.folder={clips}", "run.dir=compare", *brief, *arguments])


def table() -> list[dict]:
    return json.loads(Path("compare/audio.json").read_text())["rows"]


def test_a_comparison_trains_all_models_and_resumes(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(clips, "seeds=[0,3]", "publish=published/audio.json") == 0
    rows = table()
    assert [(row["table"], row["model"], row["seed"]) for row in rows] == [
        ("models", "mamba", 0),
        ("models", "mamba", 3),
        ("models", "wavenet", 0),
        ("models", "wavenet", 3),
        ("ablation", "ablation: + S6, C", 0),
    ]
    assert json.loads(Path("published/audio.json").read_text())["rows"] == rows
    assert Path("compare/bits_by_model.png").exists()
    for row in rows:
        assert row["fid"] is row["is"] is row["mis"] is row["am"] is None
        folder = Path(row["run"])
        packed = open_audio_data(training_data_config(folder), ALONE).packed
        test = clip_windows(packed, "test", 10**6)
        model = trained_model(folder, ALONE.device).model
        assert row["nll_bits"] == pytest.approx(likelihood(model, packed, test, ALONE).bits)
        assert row["test_samples"] == test.lengths.sum()
        learning = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])
        assert (learning["event"], learning["step"]) == ("train", row["steps"])
        assert learning["learning_rate"] == pytest.approx(1e-5)  # the cosine has ended

    published = json.loads(Path("published/audio.json").read_text())
    published["rows"][1] |= {"fid": 2.0, "fid_interval": [1.0, 3.0]}
    Path("published/audio.json").write_text(json.dumps(published))
    Path("compare/models-wavenet-0/row.json").unlink()
    Path("compare/models-wavenet-0/train/summary.json").unlink()
    assert compare(clips, "seeds=[0,3]", "publish=published/audio.json") == 0
    assert table() == rows
    assert json.loads(Path("published/audio.json").read_text())["rows"] == published["rows"]
    assert "models-wavenet-0: continues" in capsys.readouterr().out


def test_a_comparison_has_one_set_of_settings(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(clips, "ablation_seconds=0") == 0
    assert {row["table"] for row in table()} == {"models"}
    assert compare(clips, "ablation_seconds=0", "seconds=0.3", "train.batch_size=3") == 1
    assert (
        "train.batch_size is 2 there and 3 here; seconds is 0.2 there and 0.3 here" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seconds=0", "seconds must be above 0"),
        ("seeds=[]", "seeds must not be empty"),
        ("publish=table.txt", "must end in .json"),
        ("data.folder=absent", "no folder absent"),
    ],
)
def test_bad_input(argument: str, message: str, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(clips, argument) == 1
    assert message in capsys.readouterr().err
    assert not Path("compare").exists()


def test_the_contenders_are_about_equal_and_differ_by_name() -> None:
    sizes = {}
    for table, models in (("models", contenders()), ("ablation", ablation())):
        for one in models:
            with torch.device("meta"):
                model = new_model(one.model)
            sizes[table, one.name] = sum(parameter.numel() for parameter in model.parameters())
    assert len(sizes) == 10
    assert all(size == pytest.approx(1.84e6, rel=0.04) for size in sizes.values())


def test_a_damaged_table_is_rejected_before_training(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.json").write_text("[1,")
    assert compare(clips, "publish=mine.json") == 1
    assert "mine.json is not a published table" in capsys.readouterr().err
    assert not Path("compare").exists()
