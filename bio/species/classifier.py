"""The species classifier: load it from a checkpoint, and run it or its backbone on windows.

A batch has the same windows for any number of ranks and workers, so the results are equal bit by bit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bio.genome.vocabulary import COMPLEMENT, VOCABULARY_SIZE
from core.checkpoints.checkpoint import CheckpointError, read_header
from core.checkpoints.loading import load_trained
from core.models.classifier import HeadConfig, SequenceClassifier, pooled_hidden
from core.models.finite import require_finite
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import World

BATCH_BASES = 1 << 18
"""Bases per batch, on any rank."""

Probabilities = npt.NDArray[np.float64]
"""(windows, classes)."""


class TrainedClassifier(NamedTuple):
    """A classifier in evaluation mode, the names of its classes, and the window length of its training."""

    model: SequenceClassifier
    classes: list[str]
    length: int


def load_classifier(path: Path, device: torch.device) -> TrainedClassifier:
    """Load the classifier of a checkpoint file.

    Raises CheckpointError for a damaged file and for a checkpoint of another kind.
    """
    config = read_header(path).config
    symbols = config.get("model", {}).get("vocab_size")
    if "head" not in config or symbols != VOCABULARY_SIZE:
        raise CheckpointError(
            f"{path} does not hold a DNA classifier ({symbols} symbols, "
            f"{'with' if 'head' in config else 'without'} a head). Name a run of dna_classify."
        )
    classes = config["data"]["classes"]

    def build() -> SequenceClassifier:
        backbone = SequenceModel(SequenceModelConfig(**config["model"]))
        return SequenceClassifier(backbone, len(classes), HeadConfig(**config["head"]))

    return TrainedClassifier(load_trained(path, build).to(device), classes, config["data"]["length"])


@torch.no_grad()
def predict_probabilities(
    model: nn.Module,
    windows: Dataset[Tensor],
    classes: int,
    world: World,
    workers: int = 0,
    both_strands: bool = False,
    chunk: int | None = None,
) -> Probabilities:
    """Return the probabilities (windows, classes) of a classifier in evaluation mode.

    Ranks share the batches.

    both_strands: average the probabilities of a window and of its reverse complement.
    chunk: read longer windows in chunks of this many bases, each from a zero state, and take the geometric
        mean of their probabilities. A shorter rest is not read.
    """
    result = torch.zeros(len(windows), classes, dtype=torch.float64, device=world.device)  # type: ignore[arg-type]
    for rows, tokens in _batches(windows, world, workers):
        strands = [tokens, reverse_strand(tokens)] if both_strands else [tokens]
        for strand in strands:
            result[rows] += _chunk_probabilities(model, strand, chunk or strand.shape[1]) / len(strands)
    return world.sum(result).cpu().numpy()


@torch.no_grad()
def embed_windows(
    backbone: SequenceModel, windows: Dataset[Tensor], pooling: str, world: World, workers: int = 0
) -> npt.NDArray[np.float32]:
    """Return the pooled hidden vectors (windows, d_model) of a backbone; ranks share the batches."""
    result = torch.zeros(len(windows), backbone.config.d_model, device=world.device)  # type: ignore[arg-type]
    for rows, tokens in _batches(windows, world, workers):
        pooled = pooled_hidden(backbone, tokens, pooling)
        require_finite(pooled, "hidden vectors")
        result[rows] = pooled
    return world.sum(result).cpu().numpy()


def reverse_strand(tokens: Tensor) -> Tensor:
    """Return the reverse complement of tokens (batch, length) uint8, on their device."""
    table = torch.from_numpy(COMPLEMENT).to(tokens.device)
    return table[tokens.flip(1).int()]


def pool_probabilities(window_probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Return the probabilities (classes,) of a record from those of its windows (windows, classes).

    The geometric mean: windows of one record depend on each other, so their product would soon be certain.
    """
    logs = np.log(np.maximum(window_probabilities, 1e-12)).mean(axis=0)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _chunk_probabilities(model: nn.Module, tokens: Tensor, chunk: int) -> Tensor:
    """Return the probabilities (windows, classes) float64 of tokens (windows, length), read in chunks."""
    chunk = min(chunk, tokens.shape[1])
    count = tokens.shape[1] // chunk
    logits = model(tokens[:, : count * chunk].reshape(-1, chunk))[:, 0].double()
    require_finite(logits, "logits")
    return logits.log_softmax(dim=-1).unflatten(0, (len(tokens), count)).mean(dim=1).softmax(dim=-1)


def _batches(windows: Dataset[Tensor], world: World, workers: int) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (row numbers, tokens on the device) of this rank's batches; rank 0 shows a progress bar."""
    count = len(windows)  # type: ignore[arg-type]
    batch_size = max(1, BATCH_BASES // max(1, len(windows[0]))) if count else 1
    starts = range(world.rank * batch_size, count, batch_size * world.size)
    batches = [list(range(start, min(start + batch_size, count))) for start in starts]
    loader = DataLoader(windows, batch_sampler=batches, num_workers=workers)
    bar = tqdm(total=sum(map(len, batches)), unit="window", disable=not world.is_rank_0, leave=False, delay=2)
    with bar:
        for rows, tokens in zip(batches, loader, strict=True):
            yield rows, tokens.to(world.device)
            bar.update(len(rows))
