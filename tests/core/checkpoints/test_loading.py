"""Headers that do not fit the tensors are one sentence, before memory is allocated."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from bio.dna_model import load_model
from core.checkpoints.checkpoint import CheckpointError, save_checkpoint
from core.models.sequence import SequenceModel, SequenceModelConfig

CONFIG = SequenceModelConfig(vocab_size=12, d_model=8, n_layer=1)


def saved(folder: Path, changes: dict[str, Any]) -> tuple[Path, SequenceModel]:
    model = SequenceModel(CONFIG)
    save_checkpoint(folder / "a.safetensors", model, {"model": asdict(CONFIG) | changes}, {"step": 1})
    return folder / "a.safetensors", model


def test_a_trained_model_loads(tmp_path: Path) -> None:
    path, model = saved(tmp_path, {})
    tokens = torch.arange(12)[None]
    assert torch.equal(load_model(path, torch.device("cpu"))(tokens), model(tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 10**7}, "n_layer 10,000,000 in its header"),
        ({"d_model": 10**9}, r"a\.safetensors"),
        ({"d_state": 10**15}, r"a\.safetensors"),
        ({"n_layers": 3}, "does not describe a model .*n_layers"),
        ({"n_layer": "many"}, "does not describe a model"),
        ({"n_layer": 2}, r"layers\.1\..* is missing there"),
    ],
)
def test_a_header_that_does_not_fit_is_an_error(tmp_path: Path, changes: dict, message: str) -> None:
    path, _ = saved(tmp_path, changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(path, torch.device("cpu"))
