"""Data of a training run: genomes, splits, windows, and the batches of every step."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bio.download import TABLE as SOURCES
from bio.genome.genome import Genome, open_genome
from bio.genome.spans import as_spans, merge
from bio.windows.dataset import GenomeDataset
from bio.windows.leakage import MAX_SHARED, K, shared_kmers
from bio.windows.splits import (
    Splits,
    read_bed_splits,
    separate,
    split_by_fraction,
    split_by_region,
    split_windows,
)
from bio.windows.window import TiledWindows, Windows, tiled_windows
from core.statistics import evenly_spaced_subset
from core.storage.download import read_sources
from core.training import Batches, Stage, StagedBatches, TrainingConfig, World, doubling_lengths, plan_stages


@dataclass(frozen=True)
class DataConfig:
    """Genomes, splits and windows. Raises ValueError, naming the key, for a value outside its range."""

    fasta: str = field(metadata={"help": "FASTA file, plain, gzip or bgzip; packed on first use"})
    sha256: str | None = field(
        default=None, metadata={"help": "expected sha256 of data.fasta; a run's config.yaml holds its own"}
    )
    bed: str | None = field(
        default=None, metadata={"help": "BED file of chromosome, start, end, split (train, valid, test)"}
    )
    train_chromosomes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "without a BED: training chromosomes or parts of them, as chr20:1-5000000 or "
            "chr20:11000001- (to the end); empty: all bases that are not held out"
        },
    )
    valid_chromosomes: list[str] = field(
        default_factory=list,
        metadata={"help": "without a BED: chromosomes, or parts of them, held out for validation"},
    )
    test_chromosomes: list[str] = field(
        default_factory=list,
        metadata={"help": "without a BED: chromosomes, or parts of them, held out for a final test"},
    )
    valid_fasta: str | None = field(
        default=None,
        metadata={
            "help": "second FASTA file for validation: its data.valid_chromosomes, or all of it if empty; "
            "checked for sequence shared with data.fasta"
        },
    )
    valid_sha256: str | None = field(default=None, metadata={"help": "expected sha256 of data.valid_fasta"})
    valid_fraction: float = field(
        default=0.1,
        metadata={"help": "without BED and chromosomes: fraction of every record held out, at its end"},
    )
    split: Literal["paper", "strict"] = field(
        default="strict",
        metadata={
            "help": "strict: training reads no held-out base; paper: windows of the Mamba paper, which "
            "overlap if they are longer than the intervals"
        },
    )
    length: int = field(default=1024, metadata={"help": "window length (bases)"})
    reverse_complement: bool = field(
        default=False, metadata={"help": "sample the strand of each training window"}
    )
    max_shared: float = field(
        default=MAX_SHARED,
        metadata={
            "help": f"largest fraction of held-out {K}-mers (either strand) that training bases may contain; "
            "raise it for genomes with many young repeats"
        },
    )
    max_n_fraction: float = field(default=0.5, metadata={"help": "largest fraction of N in a window"})
    validation_windows: int | None = field(
        default=128,
        metadata={"help": "number of validation windows, and of test windows, evenly spaced; null: all"},
    )
    markov_orders: list[int] = field(
        default_factory=list,
        metadata={
            "help": "orders (0 to 12) of the Markov baselines, fitted on the training bases; one or two "
            "seconds each for fifty million bases"
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"data.length is {self.length}; it must be at least 1.")
        for name in ("valid_fraction", "max_shared", "max_n_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class LengthWarmupConfig:
    """Growth of the window length (Gu and Dao 2023, section E.3). Raises ValueError, naming the key."""

    start: int | None = field(
        default=None,
        metadata={"help": "first window length (bases), doubled up to data.length; null: no warm-up"},
    )
    epochs: float = field(
        default=2.0,
        metadata={"help": "epochs per stage; the last stage takes the remaining steps"},
    )

    def __post_init__(self) -> None:
        if self.start is not None and self.start < 1:
            raise ValueError(f"length_warmup.start is {self.start}; it must be at least 1, or null.")
        if self.epochs <= 0:
            raise ValueError(f"length_warmup.epochs is {self.epochs}; it must be above 0.")


@dataclass(frozen=True)
class TrainingData:
    """Genomes, splits and windows of a run.

    genome: of the training split. held_out_genome: of the other splits, usually the same object.
    splits: spans of the splits before the window rule, each in its genome.
    train, held_out: windows.
    leaks: share of the k-mers of each held-out split in the training bases (bio.windows.leakage).
    """

    genome: Genome
    held_out_genome: Genome
    splits: Splits
    train: Windows
    held_out: dict[str, TiledWindows]
    leaks: dict[str, float] = field(default_factory=dict)

    @property
    def windows(self) -> dict[str, Windows]:
        """Windows of every split by its name."""
        return {"train": self.train, **self.held_out}

    def held_out_windows(self, split: str, count: int | None) -> TiledWindows | None:
        """Return at most `count` windows of valid or test, evenly spaced (None: all); None without the split.

        Raises ValueError for a count below 1.
        """
        if split not in self.held_out:
            return None
        windows = self.held_out[split]
        return dataclasses.replace(windows, starts=windows.starts[evenly_spaced_subset(len(windows), count)])


def open_data(config: DataConfig, world: World) -> TrainingData:
    """Open the data of a configuration. Rank 0 packs the genomes; the other ranks wait and read the packs.

    Raises ValueError and OSError for an unusable FASTA, BED, chromosome or length, and for held-out sequence
    that also occurs in the training bases, under any name, on either strand, in this or another file.
    """
    genome, held_out_genome = world.rank_0_first(lambda: _open_genomes(config))
    splits = _splits(config, genome, held_out_genome)
    train, held_out = _windows(config, genome, held_out_genome, splits, config.length)
    compared = splits if held_out_genome is not genome else separate(splits)  # coordinates are checked apart
    leaks = {
        split: shared_kmers(genome, compared["train"], held_out_genome, compared[split])
        for split in ("valid", "test")
        if len(compared[split])
    }
    for split, leak in leaks.items():
        if leak > config.max_shared:
            raise ValueError(
                f"{leak:.1%} of the {K}-mers of split {split} ({config.valid_fasta or config.fasta}) also "
                f"occur in the training bases of {config.fasta}, but data.max_shared is "
                f"{config.max_shared:.0%}, for repeats: the same sequence is in both, perhaps under another "
                "name or reverse-complemented. Hold out other parts, or raise data.max_shared."
            )
    return TrainingData(genome, held_out_genome, splits, train, held_out, leaks)


def training_batches(
    data: TrainingData, config: DataConfig, train: TrainingConfig, warmup: LengthWarmupConfig
) -> tuple[Batches, list[Stage]]:
    """Return the batches of every step and the stages of the length warm-up; no stages without a warm-up.

    Every step has the same number of bases, so the batch size halves when the length doubles. All stages
    together take train.steps. Raises ValueError if doubling warmup.start does not give config.length, and if
    the stages before the last take all the steps.
    """
    if warmup.start is None:
        return _dataset(data, config, config.length, train.batch_size, train.seed), []
    lengths = doubling_lengths(warmup.start, config.length)
    tokens_per_step = config.length * train.batch_size
    datasets = {
        length: _dataset(data, config, length, tokens_per_step // length, train.seed) for length in lengths
    }
    tokens = {length: warmup.epochs * len(datasets[length].windows) * length for length in lengths[:-1]}
    rest = train.steps * tokens_per_step - sum(tokens.values())
    if rest <= tokens_per_step / 2:  # a stage begins at the nearest step
        raise ValueError(
            f"The stages before {config.length:,} bases take {sum(tokens.values()):,.0f} bases; the run has "
            f"{train.steps * tokens_per_step:,}. Raise train.steps, or lower length_warmup.epochs."
        )
    stages = plan_stages({**tokens, config.length: rest}, tokens_per_step)
    return StagedBatches(stages, datasets), stages


def _dataset(
    data: TrainingData, config: DataConfig, length: int, batch_size: int, seed: int
) -> GenomeDataset:
    windows = data.train
    if length != config.length:
        windows, _ = _windows(config, data.genome, data.held_out_genome, data.splits, length)
    return GenomeDataset(data.genome, windows, batch_size, seed, config.reverse_complement)


def _windows(
    config: DataConfig, genome: Genome, held_out_genome: Genome, splits: Splits, length: int
) -> tuple[Windows, dict[str, TiledWindows]]:
    """Return the training and the held-out windows of a length; ValueError for a split without a window."""
    if held_out_genome is genome:
        return split_windows(genome, splits, length, config.split, config.max_n_fraction)
    train_splits = {**splits, "valid": as_spans()}
    train, _ = split_windows(genome, train_splits, length, config.split, config.max_n_fraction)
    valid = tiled_windows(held_out_genome, merge(splits["valid"]), length, config.max_n_fraction)
    return train, {"valid": valid}


def _open_genomes(config: DataConfig) -> tuple[Genome, Genome]:
    """Return the genomes of training and of the held-out splits; ValueError for a wrong checksum."""
    genome = _open_checked(config.fasta, config.sha256, "data.fasta", "data.sha256")
    if config.valid_fasta is None:
        return genome, genome
    return genome, _open_checked(
        config.valid_fasta, config.valid_sha256, "data.valid_fasta", "data.valid_sha256"
    )


def _open_checked(fasta: str, sha256: str | None, key: str, sha256_key: str) -> Genome:
    with _download_hint(fasta):
        genome = open_genome(fasta)
    if sha256 not in (None, genome.sha256):
        raise ValueError(
            f"{fasta} is not the expected file: its sha256 is {genome.sha256}, {sha256_key} is {sha256}. "
            f"Set {key} to the original FASTA of the run, or start a new run."
        )
    return genome


@contextmanager
def _download_hint(path: str) -> Iterator[None]:
    """Add the download command to a FileNotFoundError, if bio/sources.yaml has the file."""
    try:
        yield
    except FileNotFoundError as error:
        for name, source in read_sources(SOURCES).items():
            if Path(path).as_posix().endswith(source.file):
                hint = f"Download it with: python -m bio.download {name}"
                raise FileNotFoundError(f"{error} {hint}") from error
        raise


def _splits(config: DataConfig, genome: Genome, held_out_genome: Genome) -> Splits:
    """Return splits by the BED, else by chromosomes, else by fraction; ValueError if two are given."""
    names = {
        "train": config.train_chromosomes,
        "valid": config.valid_chromosomes,
        "test": config.test_chromosomes,
    }
    if config.bed is not None and any(names.values()):
        raise ValueError("Both data.bed and chromosomes define the splits. Give one of the two.")
    if held_out_genome is not genome:
        if config.bed is not None or config.test_chromosomes:
            raise ValueError(
                "data.valid_fasta works only with data.train_chromosomes and data.valid_chromosomes. Remove "
                "data.bed and data.test_chromosomes."
            )
        train = split_by_region(genome, {"train": names["train"]})
        # under "train", an empty list selects the whole genome
        valid = split_by_region(held_out_genome, {"train": names["valid"]})
        return {**train, "valid": valid["train"]}
    if config.bed is not None:
        with _download_hint(config.bed):
            return read_bed_splits(config.bed, genome)
    if any(names.values()):
        return split_by_region(genome, names)
    return split_by_fraction(genome, valid=config.valid_fraction)
