"""Shipped checkpoints load, are small, match their card, and predict human DNA better than a bacterium's."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bio
from bio.dna_model import load_model
from bio.genome.genome import open_genome
from bio.scoring.likelihood import base_losses
from bio.windows.dataset import inputs_and_targets
from core.checkpoints.checkpoint import read_header

FOLDER = Path(bio.__file__).parent / "models"
CHECKPOINTS = sorted(FOLDER.glob("*.safetensors"))


def test_shipped_models_take_at_most_25_megabytes() -> None:
    assert CHECKPOINTS
    assert sum(path.stat().st_size for path in CHECKPOINTS) < 25e6


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_the_card_names_the_run_of_the_checkpoint(path: Path) -> None:
    summary = json.loads(path.with_suffix(".json").read_text())
    header = read_header(path)
    assert header.progress["step"] == summary["steps"]
    assert header.progress["validation"] == summary["validation"]
    card = (FOLDER / "README.md").read_text()
    assert f"{summary['tokens']:,} bases" in card
    assert f"{summary['validation']['bits_per_base']:.4f}" in card
    assert header.config["data"]["sha256"] in card


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_a_shipped_model_knows_human_dna(path: Path, tmp_path: Path) -> None:
    model = load_model(path, torch.device("cpu"))
    bits = {}
    for name in ("human_chr20_50M", "ecoli_2M"):
        genome = open_genome(FOLDER.parent / "data" / f"{name}.fa.gz", tmp_path)
        record = next(iter(genome.records.values()))
        starts = record.offset + np.arange(8) * (record.length // 8)
        packed = torch.from_numpy(np.stack([genome.bases[start : start + 4097] for start in starts]))
        inputs, targets = inputs_and_targets(packed)
        with torch.no_grad():
            losses, _ = base_losses(model, inputs, targets, model.initial_state(8))
        bits[name] = losses.mean().item() / math.log(2)
    assert bits["human_chr20_50M"] < 1.85 < 1.9 < bits["ecoli_2M"]
