"""Published tables say what their files say, missed targets included."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import tables

FACTS = {"command": "python -m x", "commit": "0123456789abcdef", "hardware": "a GPU", "date": "2026-01-02"}


def scan_row(**changes: Any) -> dict[str, Any]:
    row = {"batch": 8, "channels": 1024, "length": 2048, "state": 16, "complex": False, "reason": None}
    row |= {"official_forward_ms": 1.0, "official_forward_backward_ms": 4.0, "official_peak_mib": 100.0}
    row |= {
        "ours_forward_ms": 0.5,
        "ours_forward_backward_ms": 2.5,
        "ours_peak_mib": 90.0,
        "error_ratio": 1.0,
    }
    row |= {"forward_ratio": 2.0, "forward_backward_ratio": 1.6, "floor_forward_backward_ms": 0.5}
    return row | {"target_forward": 1.5, "target_forward_backward": 2.0} | changes


def test_a_table_names_its_source_and_what_fell_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    wrong = scan_row(forward_ratio=None, forward_backward_ratio=None, reason="wrong: y")
    content = FACTS | {"seed": 7, "rows": [scan_row(), wrong]}
    (tmp_path / "scan.json").write_text(json.dumps(content))
    tables.main(["scan"])
    source, _, _, _, first, second, *_ = capsys.readouterr().out.split("\n")
    assert source == "`python -m x`: a GPU, 2026-01-02, commit 0123456789, seed 7."
    assert first.startswith(
        "| (8, 1,024, 2,048) | 16 | 1.000 / 4.000 | 0.500 / 2.500 | 2.00x | 1.60x (short of 2.0x) |"
    )
    assert second.count("wrong: y") == 2


def test_an_unknown_table_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="speed is no table; there are: scan"):
        tables.main(["speed"])


def test_published_files_make_tables(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main(["scan", "train"])
    assert capsys.readouterr().out.count("NVIDIA H200") == 2
