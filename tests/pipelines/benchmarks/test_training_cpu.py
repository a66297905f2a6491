"""Benchmark of CPU training: no ratio is printed if our model differs from mambapy's."""

import sys

import pytest
import torch

from core.models.sequence import SequenceModel, SequenceModelConfig
from pipelines.benchmarks import training_cpu as benchmark

CONFIG = SequenceModelConfig(vocab_size=16, d_model=32, n_layer=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CONFIG": CONFIG, "LENGTH": 33, "ROUNDS": 1}.items():
        monkeypatch.setattr(benchmark, name, value)


def test_outputs_and_gradients_equal_mambapys() -> None:
    mambapy = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    ours, peer = SequenceModel(CONFIG), benchmark.MambapyModel(mambapy, CONFIG)
    peer.load_state_dict(ours.state_dict())
    tokens = torch.randint(16, (2, 100))
    assert benchmark.disagreement(ours, peer, tokens) < 1e-4
    peer.layers[1].mixer.A_log.data[3, 5] += 0.1
    assert benchmark.disagreement(ours, peer, tokens) > 1e-4


def test_ratios_of_forward_and_training_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mambapy.mamba")
    benchmark.main([])
    output = capsys.readouterr().out
    assert output.count("ratio") == 2
    assert "forward " in output
    assert "training step " in output


def test_disagreement_prints_no_ratio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mambapy.mamba")
    monkeypatch.setattr(benchmark, "TOLERANCE", 0.0)
    with pytest.raises(SystemExit, match="disagree"):
        benchmark.main([])
    assert "ratio" not in capsys.readouterr().out


def test_missing_mambapy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mambapy", None)
    with pytest.raises(SystemExit, match="mambapy is not installed"):
        benchmark.main([])
