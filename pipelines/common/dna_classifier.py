"""Trained classifiers of species, from their checkpoints."""

from pathlib import Path
from typing import NamedTuple

import torch

from bio.genome.vocabulary import VOCABULARY_SIZE
from core.checkpoints.checkpoint import CheckpointError, latest_checkpoint, load_weights, read_header
from core.models.classifier import HeadConfig, SequenceClassifier
from core.models.sequence import SequenceModel, SequenceModelConfig


class TrainedClassifier(NamedTuple):
    """A classifier ready for use, the names of its classes, and the bases of a window in training."""

    model: SequenceClassifier
    classes: list[str]
    length: int


def best_checkpoint(checkpoint: Path) -> Path:
    """A checkpoint file as it is; of a run folder the one with the lowest validation loss.

    The last one where nothing was held out. Raises CheckpointError where there is none.
    """
    if not checkpoint.is_dir():
        return checkpoint
    best = checkpoint / "checkpoints" / "best.safetensors"
    return best if best.is_file() else latest_checkpoint(checkpoint)


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
