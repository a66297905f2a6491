"""Models of DNA: new ones, the seven sizes of the Mamba paper, and trained ones from checkpoints."""

from pathlib import Path

import torch

from bio.genome.vocabulary import VOCABULARY_SIZE
from core.checkpoints.checkpoint import CheckpointError, read_header, resolve_checkpoint
from core.checkpoints.loading import load_trained
from core.models.sequence import SequenceModel, SequenceModelConfig

SIZES = {
    "250k": (64, 8),
    "700k": (96, 10),
    "1.4m": (128, 12),
    "3.5m": (192, 14),
    "7m": (256, 16),
    "19.3m": (384, 20),
    "40.7m": (512, 24),
}
"""d_model and number of blocks by name (Gu and Dao 2023, section 4.3.1 and table 12).

The paper counts layers of a Transformer; two Mamba blocks replace one of them.
"""


def size_config(size: str) -> SequenceModelConfig:
    """Return the configuration of a size. Raises ValueError for an unknown name."""
    if size not in SIZES:
        raise ValueError(f"There is no model of size {size!r}; it must be one of {', '.join(SIZES)}.")
    d_model, n_layer = SIZES[size]
    return SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=d_model, n_layer=n_layer)


def new_model(config: SequenceModelConfig) -> SequenceModel:
    """Return a model with random parameters. Raises ValueError if its vocabulary is not that of DNA."""
    if config.vocab_size != VOCABULARY_SIZE:
        raise ValueError(f"model.vocab_size is {config.vocab_size}; DNA has {VOCABULARY_SIZE} symbols.")
    return SequenceModel(config)


def load_model(checkpoint: Path, device: torch.device) -> SequenceModel:
    """Load the DNA model of a checkpoint file, or of the best checkpoint in a run folder, in eval mode.

    Raises CheckpointError if the checkpoint is missing, damaged, or not of a language model of DNA.
    """
    path = resolve_checkpoint(checkpoint)
    config = read_header(path).config
    shape = config.get("model", {})
    if shape.get("vocab_size") != VOCABULARY_SIZE:
        raise CheckpointError(
            f"The checkpoint {path} holds another kind of model: it has {shape.get('vocab_size')} symbols, a "
            f"model of DNA has {VOCABULARY_SIZE}. Give a checkpoint of dna_pretrain."
        )
    if "head" in config:
        raise CheckpointError(
            f"The checkpoint {path} holds a classifier of species, which does not predict bases. Give a "
            "checkpoint of dna_pretrain or dna_species_pretrain."
        )
    return load_trained(path, lambda: SequenceModel(SequenceModelConfig(**shape))).to(device)
