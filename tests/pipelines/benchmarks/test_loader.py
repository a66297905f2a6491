"""Benchmark of the genome loader."""

import pytest

import pipelines.benchmarks.loader


def test_table_has_a_positive_speed_for_every_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "GENOME_BASES": 1 << 16,
        "BATCH_BASES": 1 << 12,
        "BATCHES": 3,
        "LENGTHS": (64, 4096),
    }.items():
        monkeypatch.setattr(pipelines.benchmarks.loader, name, value)
    table = pipelines.benchmarks.loader.rows()
    assert [row["length"] for row in table] == [64, 4096]
    assert all(row["mbase_per_s"] > 0 for row in table)
    pipelines.benchmarks.loader.main([])
    assert "4,096" in capsys.readouterr().out
