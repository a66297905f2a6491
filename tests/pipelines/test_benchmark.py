"""The benchmark script prints, stores, plots and publishes tables."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import benchmark, tables
from pipelines.benchmark import BENCHMARKS, main
from pipelines.common.table_columns import TABLES

LOADER = [{"length": 1024, "mbase_per_s": 700.0}, {"length": 4096, "mbase_per_s": 900.0}]
SCAN = {
    "batch": 8,
    "channels": 64,
    "length": 2048,
    "ours_forward_ns": 2.0,
    "ours_forward_backward_ns": 7.0,
    "mambapy_forward_ns": 90.0,
    "mambapy_forward_backward_ns": 300.0,
    "forward_ratio": 45.0,
    "forward_backward_ratio": 42.9,
}


def measuring(monkeypatch: pytest.MonkeyPatch, name: str, rows: Any) -> None:
    monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], rows=rows))


def test_table_is_printed_stored_plotted_and_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "results")
    measuring(monkeypatch, "loader", lambda: LOADER)
    measuring(monkeypatch, "scan_cpu", lambda: [SCAN])
    assert main(["loader", "scan_cpu", "--output", "out", "--publish"]) == 0
    printed = capsys.readouterr().out
    assert "| 1,024 | 700 |" in printed
    assert "| (8, 64, 2,048) | 90.0 / 300.0 | 2.0 / 7.0 | 45.0 | 42.9 |" in printed
    lines = (tmp_path / "out" / "loader.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == LOADER
    for name in ("loader", "scan_cpu"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results" / "loader.json").read_text())
    assert results["rows"] == LOADER
    assert results["command"] == "python -m pipelines.benchmark loader --publish"
    tables.main(["loader"])
    assert capsys.readouterr().out.strip() in printed


def test_publishes_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path / "results")
    measuring(monkeypatch, "loader", lambda: LOADER)
    assert main(["loader"]) == 0
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "runs" / "benchmark" / "loader.jsonl").exists()


def test_wrong_result_gets_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong() -> list[dict[str, Any]]:
        raise ValueError("The scans differ.")

    measuring(monkeypatch, "scan_cpu", wrong)
    assert main(["scan_cpu", "--output", "out"]) == 1
    assert "error: The scans differ." in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> list[dict[str, Any]]:
        raise ImportError(name="mambapy")

    measuring(monkeypatch, "train_cpu", absent)
    assert main(["train_cpu"]) == 1
    assert "train_cpu compares with mambapy, which is not installed" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_table_without_a_gpu_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loader", "scan"]) == 1
    assert "The table scan needs a GPU" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_help_lists_every_table_and_each_has_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    page = capsys.readouterr().out
    for name, described in BENCHMARKS.items():
        assert f"  {name:<10} {described.about}" in page
        assert name in TABLES


def test_unknown_table_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err
