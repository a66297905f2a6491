"""Trained classifier: its file, its training record, and its predictions."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audio.data.waveform import RATE
from audio.evaluation.classifier import Classifier, ClassifierConfig
from audio.metrics.predictions import Predictions
from core.checkpoints.checkpoint import CheckpointError, load_weights, read_header, save_checkpoint

FILE = "classifier.safetensors"


@dataclass(frozen=True)
class TrainingRecord:
    """Data and results of a classifier's training.

    data: name of the data set, with its split. sha256: checksum of its clips. quantizer: quantizer of their
    codes. counts: number of clips in each split. classes: class names in order. accuracy: fraction of correct
    clips in each split. temperature: divisor of the logits that calibrates the classifier on the validation
    clips.
    """

    data: str
    sha256: str
    quantizer: str
    counts: dict[str, int]
    classes: tuple[str, ...]
    accuracy: dict[str, float]
    temperature: float
    rate: int = RATE


class TrainedClassifier(NamedTuple):
    """Classifier ready for use, with the checksum of its file; published numbers carry the checksum."""

    model: Classifier
    training: TrainingRecord
    path: Path
    sha256: str


@torch.no_grad()
def predict(model: Classifier, batches: Iterable[Tensor]) -> Predictions:
    """Classify clips, given as batches (rows, CLIP) of waveforms at 16 kHz on any device.

    Matrix products run in bf16 on a GPU. Raises ValueError if a feature is not finite.
    """
    device = model.head.weight.device
    batch_features = []
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for batch in batches:
            batch_features.append(model.embed(batch.to(device, non_blocking=True)).cpu())
    features = torch.cat(batch_features)
    if not features.isfinite().all():
        first = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"The classifier's features of clip {first:,} are not finite. Train it again.")
    logits = torch.nn.functional.linear(
        features.double(), model.head.weight.double().cpu(), model.head.bias.double().cpu()
    )
    return Predictions(features, logits.log_softmax(dim=1))


def save_classifier(path: Path, model: Classifier, training: TrainingRecord, step: int) -> None:
    """Write the weights and the training record atomically."""
    save_checkpoint(
        path, model, {"model": asdict(model.config), "training": asdict(training)}, {"step": step}
    )


def load_classifier(path: Path, device: torch.device) -> TrainedClassifier:
    """Load a classifier from its file, or from a run folder of audio_classifier.

    Raises CheckpointError if the file is missing, damaged, or another kind of checkpoint.
    """
    file = path / FILE if path.is_dir() else path
    header: dict[str, Any] = read_header(file).config
    if "training" not in header:
        raise CheckpointError(
            f"The checkpoint {file} is not a classifier. Give the run folder of audio_classifier."
        )
    if header["training"].keys() != {field.name for field in fields(TrainingRecord)}:
        raise CheckpointError(
            f"The classifier {file} was written by another version of Helixwave. Train it again."
        )
    model = Classifier(ClassifierConfig(**header["model"])).to(device)
    load_weights(file, model)
    record = header["training"] | {"classes": tuple(header["training"]["classes"])}
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return TrainedClassifier(model.eval(), TrainingRecord(**record), file, sha256)


def require_classes(classifier: TrainedClassifier, classes: Sequence[str], data: str) -> None:
    """Raise ValueError unless the classifier has these classes in this order; `data` names their data set."""
    known = classifier.training.classes
    if tuple(classes) != known:
        raise ValueError(
            f"The classifier {classifier.path} has the classes {', '.join(known)}, but {data} has the "
            f"classes {', '.join(classes) or '(none)'}. Train a classifier on that data set, or give "
            "another one."
        )
