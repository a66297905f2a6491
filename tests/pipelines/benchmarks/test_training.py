"""Without a GPU: models that disagree are not timed, and rows say which of them were replayed as a graph."""

from typing import Any

import pytest
import torch

from pipelines.benchmarks import training as benchmark_gpu
from pipelines.benchmarks.training import CASES, GRAPH_CASES, MEMORY_CASES, rows


def test_disagreeing_models_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any) -> tuple[float, float]:
        raise AssertionError("It was timed.")

    monkeypatch.setattr(benchmark_gpu, "official_model", lambda: torch.nn.Identity)
    monkeypatch.setattr(benchmark_gpu, "disagreement", lambda official: 0.5)
    monkeypatch.setattr(benchmark_gpu, "_measure", measure)
    with pytest.raises(ValueError, match=r"disagree by 5.0e-01, so their speeds mean nothing"):
        rows(CASES)


def test_captured_cases_are_also_measured_eager() -> None:
    cases = {(case.model, case.batch, case.length, case.captured) for case in GRAPH_CASES}
    captured = [case for case in cases if case[-1]]
    assert captured
    assert all((*case[:-1], False) in cases for case in captured)


def test_memory_is_measured_at_the_batches_of_the_paper() -> None:
    assert [(case.batch, case.length) for case in MEMORY_CASES] == [
        (batch, 2048) for batch in (1, 2, 4, 8, 16, 32)
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark_gpu"])
    with pytest.raises(SystemExit, match="There is no GPU here"):
        benchmark_gpu.main()
