"""Benchmark of the CPU scan: results that differ from mambapy's are not timed."""

import pytest

from kernels.benchmarks import scan_cpu


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cpu, "CASES", ((1, 8, 16, 2),))
    monkeypatch.setattr(scan_cpu, "ROUNDS", 1)


def test_prints_both_times_and_their_ratio(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    scan_cpu.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("ours" in line and "mambapy" in line and "ratio" in line for line in lines[2:])


def test_ratio_is_of_the_times(small: None) -> None:
    (row,) = scan_cpu.run()
    assert row["forward_ratio"] == pytest.approx(row["mambapy_forward_ns"] / row["ours_forward_ns"])


def test_a_wrong_result_is_not_timed(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scan_cpu.selective_scan
    monkeypatch.setattr(scan_cpu, "selective_scan", lambda *arguments: right(*arguments) * 1.001)
    monkeypatch.setattr(scan_cpu, "_seconds", lambda *_: pytest.fail("timed a wrong result"))
    with pytest.raises(ValueError, match="differ by 1"):
        scan_cpu.run()
