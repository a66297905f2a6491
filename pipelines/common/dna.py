"""What every DNA pipeline starts from: a genome with its splits and windows, a trained model."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from bio.download import TABLE as SOURCES
from bio.genome.genome import Genome, open_genome
from bio.genome.interval import Splits, read_bed, split_by_fraction, split_by_region
from bio.genome.spans import as_spans, merge
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.scoring.markov import check_order
from bio.windows.leakage import MOST_SHARED, K, shared_kmers
from bio.windows.splits import split_windows
from bio.windows.window import TiledWindows, Windows, tiled_windows
from core.checkpoints.checkpoint import CheckpointError, load_weights, read_header, resolve_checkpoint
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.statistics import evenly_spaced_subset
from core.storage.download import read_sources
from core.training import World


@dataclass(frozen=True)
class DataConfig:
    """Which bases are read, in what pieces."""

    fasta: str = field(metadata={"help": "genome: a FASTA file, plain, gzip or bgzip; packed beside it once"})
    sha256: str | None = field(
        default=None, metadata={"help": "sha256 that the FASTA must have; config.yaml keeps a run's own"}
    )
    bed: str | None = field(
        default=None, metadata={"help": "intervals: chromosome, start, end, split (train, valid, test)"}
    )
    train_chromosomes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "instead of a BED: the chromosomes to train on, or parts of them, as chr20:1-5000000 or "
            "chr20:11000001- (from a base to the end); none: all that is not held out"
        },
    )
    valid_chromosomes: list[str] = field(
        default_factory=list,
        metadata={"help": "instead of a BED: the chromosomes, or parts, held out for validation"},
    )
    test_chromosomes: list[str] = field(
        default_factory=list,
        metadata={"help": "instead of a BED: the chromosomes, or parts, held out for a final test"},
    )
    valid_fasta: str | None = field(
        default=None,
        metadata={
            "help": "another FASTA file, which holds the bases for validation: data.valid_chromosomes of it, "
            "none: all. That they are not in data.fasta as well is checked"
        },
    )
    valid_sha256: str | None = field(
        default=None, metadata={"help": "sha256 that data.valid_fasta must have, as data.sha256"}
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
    markov_orders: list[int] = field(
        default_factory=list,
        metadata={
            "help": "orders of Markov models, 0 to 12, that are fitted on the training bases and measured "
            "beside the model: a second or two each for fifty million bases"
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"data.length is {self.length}; it must be at least 1.")
        for name in ("valid_fraction", "max_n_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        for order in self.markov_orders:
            check_order(order)


@dataclass(frozen=True)
class DnaData:
    """The genome of training and that of the held-out splits, which is mostly the same one; the spans of the
    splits as they were asked for, each in its genome; and the windows of each split.

    leak: the share of the held-out k-mers that stand in the training bases too
    (bio.windows.leakage), where the two
        genomes are of different files; None where they are the same.
    """

    genome: Genome
    held_out_genome: Genome
    splits: Splits
    train: Windows
    held_out: dict[str, TiledWindows]
    leak: float | None = None

    @property
    def windows(self) -> dict[str, Windows]:
        return {"train": self.train, **self.held_out}


def open_data(config: DataConfig, world: World) -> DnaData:
    """The data of a configuration; the first process packs the genomes, the others wait and read the packs.

    Raises ValueError and OSError for a FASTA, a BED, a chromosome or a length that cannot be used, and for
    held-out bases of another file that stand in the training bases.
    """
    genome, held_out_genome = world.rank_0_first(lambda: _open_genomes(config))
    splits = _splits(config, genome, held_out_genome)
    train, held_out = windows_of(config, genome, held_out_genome, splits, config.length)
    leak = None
    if held_out_genome is not genome:
        leak = shared_kmers(genome, splits["train"], held_out_genome, splits["valid"])
        if leak > MOST_SHARED:
            raise ValueError(
                f"{leak:.1%} of the {K}-mers of data.valid_fasta ({config.valid_fasta}) stand in the "
                f"training bases of {config.fasta} too, more than repeats explain: the same sequence is in "
                "both. Name other parts in data.train_chromosomes or data.valid_chromosomes."
            )
    return DnaData(genome, held_out_genome, splits, train, held_out, leak)


def windows_of(
    config: DataConfig, genome: Genome, held_out_genome: Genome, splits: Splits, length: int
) -> tuple[Windows, dict[str, TiledWindows]]:
    """The training and the held-out windows of a length. Raises ValueError for a split without a window."""
    if held_out_genome is genome:
        return split_windows(genome, splits, length, config.split, config.max_n_fraction)
    alone = {**splits, "valid": as_spans()}
    train, _ = split_windows(genome, alone, length, config.split, config.max_n_fraction)
    valid = tiled_windows(held_out_genome, merge(splits["valid"]), length, config.max_n_fraction)
    return train, {"valid": valid}


def evenly_spaced(windows: TiledWindows, count: int | None) -> TiledWindows:
    """At most `count` of the windows, spread evenly; all for None. Raises ValueError for a count below 1."""
    return dataclasses.replace(windows, starts=windows.starts[evenly_spaced_subset(len(windows), count)])


def new_model(config: SequenceModelConfig) -> SequenceModel:
    """A model of new parameters. Raises ValueError for one of other symbols than those of DNA."""
    if config.vocab_size != VOCABULARY_SIZE:
        raise ValueError(f"model.vocab_size is {config.vocab_size}; DNA has {VOCABULARY_SIZE} symbols.")
    return SequenceModel(config)


def trained_model(checkpoint: Path, device: torch.device) -> SequenceModel:
    """The DNA model of a checkpoint, or of the latest one in a run folder, ready for use.

    Raises CheckpointError if there is none, it is damaged, or it is not of a model of DNA.
    """
    path = resolve_checkpoint(checkpoint)
    config = read_header(path).config
    shape = config.get("model", {})
    if shape.get("vocab_size") != VOCABULARY_SIZE:
        raise CheckpointError(
            f"The checkpoint {path} is of another kind of model: it has {shape.get('vocab_size')} symbols, a "
            f"model of DNA has {VOCABULARY_SIZE}. Name a checkpoint of dna_pretrain."
        )
    if "head" in config:
        raise CheckpointError(
            f"The checkpoint {path} is of a classifier of species, which knows no next base. Name a "
            "checkpoint of dna_pretrain, or of dna_species_pretrain."
        )
    model = SequenceModel(SequenceModelConfig(**shape)).to(device)
    load_weights(path, model)
    return model.eval()


def _open_genomes(config: DataConfig) -> tuple[Genome, Genome]:
    """The genome of training and that of the held-out splits; ValueError if one is not the file meant."""
    genome = _open_checked(config.fasta, config.sha256, "data.fasta", "data.sha256")
    if config.valid_fasta is None:
        return genome, genome
    return genome, _open_checked(
        config.valid_fasta, config.valid_sha256, "data.valid_fasta", "data.valid_sha256"
    )


def _open_checked(fasta: str, sha256: str | None, key: str, sha256_key: str) -> Genome:
    with _naming_download(fasta):
        genome = open_genome(fasta)
    if sha256 not in (None, genome.sha256):
        raise ValueError(
            f"{fasta} is not the file that is meant: its sha256 is {genome.sha256}, {sha256_key} is "
            f"{sha256}. Name the FASTA that the run began with as {key}, or start a new run."
        )
    return genome


@contextmanager
def _naming_download(path: str) -> Iterator[None]:
    """Where the file of that path is not there, add the command that downloads it, if there is one."""
    try:
        yield
    except FileNotFoundError as error:
        for name, source in read_sources(SOURCES).items():
            if Path(path).as_posix().endswith(source.file):
                hint = f"It is downloaded by: python -m bio.download {name}"
                raise FileNotFoundError(f"{error} {hint}") from error
        raise


def _splits(config: DataConfig, genome: Genome, held_out_genome: Genome) -> Splits:
    """From the BED, else from the chromosomes, else from the fraction. ValueError if two are given."""
    names = {
        "train": config.train_chromosomes,
        "valid": config.valid_chromosomes,
        "test": config.test_chromosomes,
    }
    if config.bed is not None and any(names.values()):
        raise ValueError("Both data.bed and chromosomes name the splits: give one of the two.")
    if held_out_genome is not genome:
        if config.bed is not None or config.test_chromosomes:
            raise ValueError(
                "data.valid_fasta goes with data.train_chromosomes and data.valid_chromosomes only: leave "
                "out data.bed and data.test_chromosomes."
            )
        train = split_by_region(genome, {"train": names["train"]})
        # all that is not named is "train", so that nothing named is all of it
        valid = split_by_region(held_out_genome, {"train": names["valid"]})
        return {**train, "valid": valid["train"]}
    if config.bed is not None:
        with _naming_download(config.bed):
            return read_bed(config.bed, genome)
    if any(names.values()):
        return split_by_region(genome, names)
    return split_by_fraction(genome, valid=config.valid_fraction)
