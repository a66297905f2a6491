"""Trained classifiers of species, from their checkpoints."""

from pathlib import Path
from typing import NamedTuple

import torch

from bio.genome.vocabulary import VOCABULARY_SIZE
from core.checkpoints.checkpoint import CheckpointError, load_weights, read_header
from core.models.classifier import HeadConfig, SequenceClassifier
from core.models.sequence import SequenceModel, SequenceModelConfig


class TrainedClassifier(NamedTuple):
    """A classifier ready for use, the names of its classes, and the bases of a window in training."""

    model: SequenceClassifier
    classes: list[str]
    length: int


def trained_classifier(path: Path, device: torch.device) -> TrainedClassifier:
    """The classifier of a checkpoint file; CheckpointError where it is damaged or of another kind."""
    config = read_header(path).config
    symbols = config.get("model", {}).get("vocab_size")
    if "head" not in config or symbols != VOCABULARY_SIZE:
        raise CheckpointError(
            f"The checkpoint {path} is of no classifier of DNA ({symbols} symbols, "
            f"{'with' if 'head' in config else 'without'} a head): name a run of dna_classify."
        )
    classes = config["data"]["classes"]
    backbone = SequenceModel(SequenceModelConfig(**config["model"]))
    model = SequenceClassifier(backbone, len(classes), HeadConfig(**config["head"]))
    load_weights(path, model)
    return TrainedClassifier(model.to(device).eval(), classes, config["data"]["length"])
