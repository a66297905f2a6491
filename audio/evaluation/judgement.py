"""A trained classifier with its provenance, and what it says of clips: features and probabilities."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audio.data.waveform import RATE
from audio.evaluation.classifier import Classifier, ClassifierConfig
from core.checkpoints.checkpoint import CheckpointError, load_weights, read_header, save_checkpoint

FILE = "classifier.safetensors"


@dataclass(frozen=True)
class Training:
    """What a classifier was trained and tested on.

    data: the name of the data set, its split included. sha256: of its clips. quantizer: of their codes.
    counts: clips of each split. classes: their names in order. accuracy: fractions right, by split.
    temperature: by which its logits were divided to be as sure as it is right on the validation clips.
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
    """A classifier ready for use, and its file's checksum, which every number made with it carries."""

    model: Classifier
    training: Training
    path: Path
    sha256: str


class Judgement(NamedTuple):
    """What a classifier says of clips, on the CPU.

    features: (clips, features) float32. log_probabilities: (clips, classes) float64, which keeps apart what
    float32 would call certain.
    """

    features: Tensor
    log_probabilities: Tensor

    @property
    def classes(self) -> Tensor:
        """The most probable class of each clip, (clips,) int64."""
        return self.log_probabilities.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """The probability of that class, (clips,) float64."""
        return self.log_probabilities.amax(dim=1).exp()

    def accuracy(self, labels: Tensor) -> float:
        """The fraction of clips whose class is their label; labels (clips,)."""
        return (self.classes == labels).double().mean().item()


@torch.no_grad()
def judge(model: Classifier, batches: Iterable[Tensor]) -> Judgement:
    """The judgement of clips, given as batches (rows, CLIP) of waveforms at 16 kHz, on any device.

    Matrix products are in bf16 on a GPU. Raises ValueError where features are not finite.
    """
    device = model.head.weight.device
    features = []
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for batch in batches:
            features.append(model.embed(batch.to(device, non_blocking=True)).cpu())
    together = torch.cat(features)
    if not together.isfinite().all():
        first = int((~together.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"The classifier's features of clip {first:,} are not finite: train it again.")
    logits = torch.nn.functional.linear(
        together.double(), model.head.weight.double().cpu(), model.head.bias.double().cpu()
    )
    return Judgement(together, logits.log_softmax(dim=1))


def save_classifier(path: Path, model: Classifier, training: Training, step: int) -> None:
    """Write the weights with what they were trained on, whole or not at all."""
    save_checkpoint(
        path, model, {"model": asdict(model.config), "training": asdict(training)}, {"step": step}
    )


def load_classifier(path: Path, device: torch.device) -> TrainedClassifier:
    """The classifier of a file, or of a run folder of audio_classifier, ready for use.

    Raises CheckpointError if there is none, it is damaged, or it is another kind of checkpoint.
    """
    file = path / FILE if path.is_dir() else path
    header: dict[str, Any] = read_header(file).config
    if "training" not in header:
        raise CheckpointError(
            f"The checkpoint {file} is not of a classifier: name the folder of a run of audio_classifier."
        )
    if header["training"].keys() != {field.name for field in fields(Training)}:
        raise CheckpointError(f"The classifier {file} is of another version of Helixwave: train it again.")
    model = Classifier(ClassifierConfig(**header["model"])).to(device)
    load_weights(file, model)
    facts = header["training"] | {"classes": tuple(header["training"]["classes"])}
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return TrainedClassifier(model.eval(), Training(**facts), file, sha256)


def require_classes(classifier: TrainedClassifier, classes: Sequence[str], whose: str) -> None:
    """Raise ValueError if the classifier's classes are not these, in this order."""
    known = classifier.training.classes
    if tuple(classes) != known:
        raise ValueError(
            f"The classifier {classifier.path} tells {', '.join(known)} apart, but {whose} has the classes "
            f"{', '.join(classes) or '(none)'}: train a classifier on that data set, or name another."
        )
