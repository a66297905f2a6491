"""Published tables match their files, including missed targets."""

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


def test_a_table_names_its_source_and_missed_targets(
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


def test_a_table_of_two_runs_names_the_commit_of_each() -> None:
    results = FACTS | {"commit": "0123456789abcdef; fedcba9876543210", "seed": 7, "rows": [scan_row()]}
    source = tables.markdown_table(results, tables.TABLES["scan"]).split("\n")[0]
    assert source.endswith("commit 0123456789; fedcba9876, seed 7.")


def test_an_unknown_table_is_rejected_by_name() -> None:
    with pytest.raises(SystemExit, match=r"no table speed\. Tables are scan"):
        tables.main(["speed"])


def test_published_files_make_tables(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main(["scan", "train"])
    assert capsys.readouterr().out.count("NVIDIA H200") == 2


def published(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    layout = tables.TABLES[name]
    content = FACTS | {"seed": 7, layout.rows: rows}
    (folder / f"{layout.file or name}.json").write_text(json.dumps(content))


EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "sampling": (
        {"case": "sc09_small", "batch": 64, "ours_per_s": 5000.0, "official_per_s": 2000.0},
        "| sc09_small | 64 | 2,000 | 5,000 | 2.50x |",
    ),
    "score": (
        {"model": "d128x12", "bases": 63025520, "piece": 131072, "mbase_per_s": 11.56, "peak_gib": 0.574},
        "| d128x12 | 63,025,520 | 131,072 | 11.6 | 0.57 |",
    ),
    "loader": ({"length": 1024, "mbase_per_s": 695.4}, "| 1,024 | 695 |"),
    "memory": (
        {"model": "130m", "batch": 8, "length": 2048, "ours_peak_gib": 9.0, "official_peak_gib": None},
        "| 130m | 8 x 2,048 |  | 9.0 |  |",
    ),
    "graph": (
        {
            "model": "130m",
            "captured": True,
            "batch": 8,
            "length": 2048,
            "ours_tokens_per_s": 3e5,
            "ours_peak_gib": 9.0,
            "official_tokens_per_s": 2e5,
            "official_peak_gib": 8.0,
        },
        "| 130m, as a CUDA graph | 8 x 2,048 | 200,000, 8.0 GiB | 300,000, 9.0 GiB | 1.50x |",
    ),
    "genomics": (
        {
            "model": "1.4m",
            "parameters": 1_400_000,
            "length": 1024,
            "tokens": 10**9,
            "bits_per_base": 1.9,
            "markov_bits": None,
            "tokens_per_s": 2e6,
            "peak_gib": 10.0,
        },
        "| 1.4m | 1,400,000 | 1,024 | 1,000,000,000 | 1.9000 |  | 2,000,000 | 10.0 |",
    ),
    "markov": ({"order": 10, "bits_per_base": 1.79}, "| 10 | 1.7900 |"),
    "species": (
        {
            "task": "chr22_apes",
            "length": 1024,
            "accuracy": 0.5,
            "low": 0.45,
            "high": 0.55,
            "baseline": 0.25,
            "gain": 0.25,
            "gain_low": 0.2,
            "gain_high": 0.3,
        },
        "| chr22_apes | 1,024 | 50.0 % | 45.0 to 55.0 % | 25.0 % | 25.0 % | 20.0 to 30.0 % |",
    ),
    "audio": (
        {"data": "sc09", "model": "mamba", "parameters": 6_100_000, "nll_bits": 1.85, "fid": 0.94},
        "| sc09 | mamba | 6,100,000 |  | 1.850 | 0.94 |  |  |  |",
    ),
    "audio_speed": (
        {
            "model": "sc09_small, S6",
            "batch": 16,
            "length": 16_000,
            "ours_tokens_per_s": 4e6,
            "ours_peak_gib": 9.0,
            "ours_replayed_tokens_per_s": 5e6,
            "ours_replayed_peak_gib": 9.5,
            "official_tokens_per_s": 2e6,
            "official_peak_gib": 8.0,
        },
        "| sc09_small, S6 | 16 x 16,000 | 2,000,000, 8.0 GiB | 4,000,000, 9.0 GiB | 2.00x "
        "| 5,000,000, 9.5 GiB |",
    ),
    "synthetic": (
        {"task": "induction_heads", "mixer": "mamba", "length": 2**20, "accuracy": 1.0},
        "| induction heads | 1,048,576 | 100.0 % |  |",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_gives_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    row, line = EXAMPLES[name]
    published(tmp_path, name, [row])
    tables.main([name])
    _, _, heads, _, printed, *_ = capsys.readouterr().out.split("\n")
    assert printed == line
    assert heads.count("|") == line.count("|")


def test_a_metric_has_half_its_interval_and_infinity_is_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    row = {"data": "fsdd", "model": "mamba", "fid": 2.0, "fid_interval": [1.5, 2.5], "mis": "inf"}
    published(tmp_path, "audio", [row | {"mis_interval": [None, None]}])
    tables.main(["audio"])
    assert "| fsdd | mamba |  |  |  | 2.00 ± 0.50 |  | inf |  |\n" in capsys.readouterr().out


def test_a_copied_table_names_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main(["audio_published"])
    assert capsys.readouterr().out.startswith("Copied from Gu and Dao 2023 (arXiv 2312.00752), table 4")


def test_mixers_share_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"task": "induction_heads", "mixer": mixer, "length": length, "accuracy": accuracy}
        for mixer, length, accuracy in (("mamba", 64, 1.0), ("mamba", 128, 0.9), ("s4d", 64, 0.2))
    ]
    results = FACTS | {"seed": 0, "rows": rows}
    lines = tables.markdown_table(results, tables.TABLES["synthetic"]).split("\n")[4:]
    assert lines == ["| induction heads | 64 | 100.0 % | 20.0 % |", "| induction heads | 128 | 90.0 % |  |"]


def test_write_rewrites_the_tables_of_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    published(tmp_path, "loader", [EXAMPLES["loader"][0]])
    document = tmp_path / "room" / "README.md"
    document.parent.mkdir()
    document.write_text("Before.\n<!-- table: loader -->\nold\n<!-- end of table -->\nAfter.\n")
    tables.main(["--write"])
    text = document.read_text()
    assert text.startswith("Before.\n<!-- table: loader -->\n`python -m x`: a GPU")
    assert text.endswith("| 1,024 | 695 |\n<!-- end of table -->\nAfter.\n")
    assert str(document) in capsys.readouterr().out
    tables.main(["--write"])
    assert capsys.readouterr().out == ""
    document.write_text("<!-- table: scan -->\n<!-- end of table -->\n")
    with pytest.raises(SystemExit, match=r"README.md holds the table scan, but there is no .*scan.json"):
        tables.main(["--write"])


@pytest.mark.parametrize("document", tables.documents(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_tables_of_every_document_are_those_of_the_results(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert tables.with_tables(text, document.name) == text, "Run `python -m pipelines.tables --write`."
    lines = text.splitlines()
    begins = [line for line in lines if line.startswith("<!-- table: ")]
    assert len(begins) == lines.count("<!-- end of table -->") == len(tables.table_names(text))
