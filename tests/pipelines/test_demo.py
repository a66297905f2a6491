"""The demo from end to end, with a model too small to learn."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from pipelines import demo

SMALL = ["model.d_model=8", "model.n_layer=1", "model.d_state=2", "train.steps=2", "train.batch_size=2"]


def test_demo_ends_with_table_and_pictures_and_runs_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LENGTH", 80)
    for _ in range(2):
        assert demo.main(SMALL) == 0
        printed = capsys.readouterr().out
        assert "Markov 6    1.9109" in printed
        assert "worse than Markov 6, the best of them" in printed
        assert "generated   correlation" in printed
    folder = Path("runs/demo")
    for picture in demo.PICTURES:
        assert picture in printed
        assert imread(folder / picture).ndim == 3
    assert (folder / "generated.fa").read_text().count(">") == demo.COUNT


def test_demo_replaces_only_its_own_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("a run of the user's\n")
    assert demo.main([*SMALL, "run.dir=mine"]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert Path("mine/config.yaml").read_text() == "a run of the user's\n"


@pytest.mark.parametrize("arguments", [["data.valid_fraction=0"], ["data.length=400000"], ["--dry-run"]])
def test_earlier_demo_stays_if_no_new_one_starts(arguments: list[str]) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/generated.fa").write_text("earlier")
    assert demo.main([*SMALL, *arguments]) == (0 if arguments == ["--dry-run"] else 1)
    assert Path("runs/demo/generated.fa").read_text() == "earlier"


@pytest.mark.parametrize("best", [1.8, 2.2])
def test_table_reports_gain_and_loss(best: float) -> None:
    table = demo.bits_table({"Markov 0": 1.98, "Markov 1": 2.0, "Mamba": best})
    verdict = "0.1800 bits per base better" if best < 1.98 else "0.2200 bits per base worse"
    assert f"{verdict} than Markov 0, the best of them" in table
