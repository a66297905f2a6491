"""Plots of evaluations: PNG files for any metrics, infinite values and missing intervals included."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from audio.evaluation.plots import draw_bits, draw_embedding, draw_metrics, draw_shares, draw_trade_off
from audio.evaluation.report import ALL, METRICS, Measurement, Selection
from audio.evaluation.sources import CLIP_TABLE, COLUMNS, FEATURES, Kind, Source
from audio.metrics.bootstrap import Estimate

CLASSES = ("no", "yes")


def no_batches() -> Iterator[Tensor]:
    return iter(())


def measurement(name: str, kind: Kind, estimate: Estimate) -> Measurement:
    shares = {f"share_{label}": Estimate(0.5) for label in CLASSES}
    metrics = dict.fromkeys(METRICS, estimate) | shares
    return Measurement(Source(name, kind, {}, no_batches, [], []), None, {ALL: Selection(4, metrics)}, [])


@pytest.fixture
def measurements() -> list[Measurement]:
    return [
        measurement("train", "train", Estimate(0.0)),
        measurement("test", "test", Estimate(1.0, 0.5, 1.5)),
        measurement("mamba", "model", Estimate(2.0, 1.0, 3.0)),
        measurement("silence", "folder", Estimate(math.inf)),
    ]


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_measurements_have_plots(measurements: list[Measurement], tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw_metrics(measurements, path)
    assert is_png(path)
    draw_shares(measurements, CLASSES, path)
    assert is_png(path)
    draw_trade_off(measurements[:3], path)
    assert is_png(path)


def test_embedding_reads_features_and_predicted_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for source, classes in (("train", ["no", "yes", "no"]), ("mamba", ["yes", "yes"])):
        (tmp_path / source).mkdir()
        np.save(tmp_path / source / FEATURES, random.normal(size=(len(classes), 4)))
        rows = [dict.fromkeys(COLUMNS, "") | {"class": name} for name in classes]
        lines = ["\t".join(COLUMNS), *("\t".join(row[column] for column in COLUMNS) for row in rows)]
        (tmp_path / source / CLIP_TABLE).write_text("\n".join(lines) + "\n")
    draw_embedding(tmp_path, ["train", "mamba"], tmp_path / "plot.png")
    assert is_png(tmp_path / "plot.png")


def test_bits_have_one_panel_per_table(tmp_path: Path) -> None:
    rows = [
        {"table": table, "model": model, "nll_bits": 2.0} for table in ("a", "b") for model in ("x", "y", "x")
    ]
    draw_bits(rows, tmp_path / "plot.png")
    assert is_png(tmp_path / "plot.png")
