"""What every DNA pipeline starts from: a genome with its splits and windows, a trained model."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bio.genome import Genome, open_genome
from bio.interval import Splits, read_bed, split_by_fraction, split_by_record
from bio.rule import split_windows
from bio.vocabulary import VOCABULARY_SIZE
from bio.window import TiledWindows, Windows
from core.checkpoint import CheckpointError, latest_checkpoint, load_weights, read_header
from core.model import SequenceModel, SequenceModelConfig
from core.training import World


@dataclass
class DataConfig:
    """Which bases are read, in what pieces."""

    fasta: str = field(metadata={"help": "genome: a FASTA file, plain, gzip or bgzip; packed beside it once"})
    sha256: str | None = field(
        default=None, metadata={"help": "sha256 that the FASTA must have; config.yaml keeps a run's own"}
    )
    bed: str | None = field(
        default=None, metadata={"help": "intervals: chromosome, start, end, split (train, valid, test)"}
    )
    valid_chromosomes: list[str] = field(
        default_factory=list, metadata={"help": "instead of a BED: the chromosomes held out for validation"}
    )
    test_chromosomes: list[str] = field(
        default_factory=list, metadata={"help": "instead of a BED: the chromosomes held out for a final test"}
    )
    valid_fraction: float = field(
        default=0.1, metadata={"help": "without either: the share of every record held out, at its end"}
    )
    split: Literal["paper", "strict"] = field(
        default="strict",
        metadata={
            "help": "strict: no held-out base is read in training; paper: the Mamba paper's windows, which "
            "overlap where they are longer than the intervals"
        },
    )
    length: int = field(default=1024, metadata={"help": "bases in a window"})
    reverse_complement: bool = field(
        default=False, metadata={"help": "read each training window from a strand drawn at random"}
    )
    max_n_fraction: float = field(default=0.5, metadata={"help": "leave out windows with more N than this"})
    validation_windows: int | None = field(
        default=128, metadata={"help": "windows that measure held-out bits, evenly spaced; null: all"}
    )


@dataclass(frozen=True)
class DnaData:
    """A genome, the spans of its splits as they were asked for, and the windows of each split."""

    genome: Genome
    splits: Splits
    train: Windows
    held_out: dict[str, TiledWindows]

    @property
    def windows(self) -> dict[str, Windows]:
        return {"train": self.train, **self.held_out}


def open_data(config: DataConfig, world: World) -> DnaData:
    """The data of a configuration; the first process packs the genome, the others wait and read its pack.

    Raises ValueError and OSError for a FASTA, a BED, a chromosome or a length that cannot be used.
    """
    if world.is_first:
        open_genome(config.fasta)
    world.sum(torch.zeros(1, device=world.device))  # the others wait here
    genome = open_genome(config.fasta)
    if config.sha256 not in (None, genome.sha256):
        raise ValueError(
            f"{config.fasta} is not the file that is meant: its sha256 is {genome.sha256}, data.sha256 is "
            f"{config.sha256}. Name the FASTA that the run began with, or start a new run."
        )
    splits = _splits(config, genome)
    return DnaData(
        genome, splits, *split_windows(genome, splits, config.length, config.split, config.max_n_fraction)
    )


def evenly_spaced(windows: TiledWindows, count: int | None) -> TiledWindows:
    """At most `count` of the windows, spread evenly; all for None. Raises ValueError for a count below 1."""
    if count is None or count >= len(windows):
        return windows
    if count < 1:
        raise ValueError(f"data.validation_windows is {count}; it must be at least 1, or null for all.")
    chosen = np.linspace(0, len(windows) - 1, count).round().astype(np.int64)
    return dataclasses.replace(windows, starts=windows.starts[chosen])


def trained_model(checkpoint: Path, device: torch.device) -> SequenceModel:
    """The DNA model of a checkpoint, or of the latest one in a run folder, ready for use.

    Raises CheckpointError if there is none, it is damaged, or it is not of a model of DNA.
    """
    path = latest_checkpoint(checkpoint) if checkpoint.is_dir() else checkpoint
    shape = read_header(path).config.get("model", {})
    if shape.get("vocab_size") != VOCABULARY_SIZE:
        raise CheckpointError(
            f"The checkpoint {path} is of another kind of model: it has {shape.get('vocab_size')} symbols, a "
            f"model of DNA has {VOCABULARY_SIZE}. Name a checkpoint of dna_pretrain."
        )
    model = SequenceModel(SequenceModelConfig(**shape)).to(device)
    load_weights(path, model)
    return model.eval()


def _splits(config: DataConfig, genome: Genome) -> Splits:
    """From the BED, else from the chromosomes, else from the fraction. ValueError if two are given."""
    by_chromosome = {"valid": config.valid_chromosomes, "test": config.test_chromosomes}
    named = any(by_chromosome.values())
    if config.bed is not None and named:
        raise ValueError("Both data.bed and chromosomes name the splits: give one of the two.")
    if config.bed is not None:
        return read_bed(config.bed, genome)
    if named:
        held_out_names = {genome.resolve(name).name for names in by_chromosome.values() for name in names}
        rest = [name for name in genome.records if name not in held_out_names]
        return split_by_record(genome, {"train": rest, **by_chromosome})
    return split_by_fraction(genome, valid=config.valid_fraction)
