"""Species data of a run: its configuration, the opened set, the windows of a split, the training batches."""

from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from bio.species.dataset import SpeciesDataset
from bio.species.segments import SpeciesData, open_species
from bio.species.species_set import read_species
from bio.species.windows import SpeciesWindows, species_windows
from core.training import Batches, Stage, StagedBatches, TrainingConfig, World, doubling_lengths


@dataclass(frozen=True)
class SpeciesConfig:
    """Options of the species and their windows. Raises ValueError, naming the key, for a bad value."""

    species: str = field(
        default=MISSING,
        metadata={
            "help": "set of species: a YAML file (see bio/species/species_set.py), or a name in bio/species"
        },
    )
    folder: str = field(default="data", metadata={"help": "folder with the files of the set"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "names of the species; config.yaml keeps those of the run"}
    )
    sha256: str | None = field(
        default=None, metadata={"help": "sha256 over all FASTA files; config.yaml keeps that of the run"}
    )
    length: int = field(default=1024, metadata={"help": "window length (bases)"})
    max_n_fraction: float = field(default=0.1, metadata={"help": "largest fraction of N in a window"})
    reverse_complement: bool = field(
        default=True, metadata={"help": "sample the strand of each training window"}
    )
    mutation: float = field(default=0.0, metadata={"help": "per-base mutation rate of training windows"})
    validation_windows: int | None = field(
        default=64,
        metadata={"help": "validation windows per species, to select the best checkpoint; null: all"},
    )

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"data.length is {self.length}; it must be at least 1.")
        if self.validation_windows is not None and self.validation_windows < 1:
            raise ValueError(
                f"data.validation_windows is {self.validation_windows}; it must be at least 1, or null."
            )
        if not 0 <= self.max_n_fraction <= 1:
            raise ValueError(f"data.max_n_fraction is {self.max_n_fraction}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class GrowthConfig:
    """Length warm-up at a constant batch size (Mamba, section E.3.4)."""

    start: int | None = field(
        default=None,
        metadata={
            "help": "length of the first windows (bases), doubled per stage to data.length; null: no warm-up"
        },
    )
    steps: int = field(default=1024, metadata={"help": "steps per stage; the last stage takes the rest"})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"length_warmup.steps is {self.steps}; it must be at least 1.")


def open_set(config: SpeciesConfig, world: World) -> tuple[SpeciesConfig, SpeciesData]:
    """Open the species of a configuration. Rank 0 packs the files; the other ranks wait and read the packs.

    Returns the configuration with the names and the checksum of the species, and the opened species. Raises
    ValueError if the configuration has other names or another checksum.
    """
    species_set = read_species(config.species)
    data = world.rank_0_first(lambda: open_species(species_set, config.folder))
    if config.classes and config.classes != data.names:
        raise ValueError(
            f"{config.species} has the species {', '.join(data.names)}, but the run has "
            f"{', '.join(config.classes)}. Name the set of the run, or start a new run."
        )
    if config.sha256 not in (None, data.sha256):
        raise ValueError(
            f"The files of {config.species} in {config.folder} have sha256 {data.sha256}, but data.sha256 is "
            f"{config.sha256}. Name the folder of the run, or start a new run."
        )
    return replace(config, classes=data.names, sha256=data.sha256), data


def split_windows(
    data: SpeciesData, config: SpeciesConfig, split: str, length: int | None = None
) -> SpeciesWindows:
    """Return the windows of a split, of data.length or of another length."""
    return species_windows(data, split, length or config.length, config.max_n_fraction)


def training_batches(
    data: SpeciesData,
    config: SpeciesConfig,
    train: TrainingConfig,
    growth: GrowthConfig,
    next_base: bool = False,
) -> tuple[Batches, list[Stage]]:
    """Return the training batches and the stages of the length warm-up (none if growth.start is None).

    next_base: windows have one more base, which is only a target.
    Raises ValueError if growth.start does not double to data.length, and if no step is left for the last
    stage.
    """

    def dataset(length: int) -> SpeciesDataset:
        windows = split_windows(data, config, "train", length + next_base)
        return SpeciesDataset(
            windows, train.batch_size, train.seed, config.reverse_complement, config.mutation, next_base
        )

    if growth.start is None:
        return dataset(config.length), []
    lengths = doubling_lengths(growth.start, config.length)
    rest = train.steps - growth.steps * (len(lengths) - 1)
    if rest < 1:
        raise ValueError(
            f"The stages before {config.length:,} bases take {train.steps - rest:,} steps, and the run has "
            f"{train.steps:,}: raise train.steps, or lower length_warmup.steps."
        )
    stages = [
        Stage(
            length, train.batch_size, number * growth.steps, growth.steps if length != lengths[-1] else rest
        )
        for number, length in enumerate(lengths)
    ]
    return StagedBatches(stages, {length: dataset(length) for length in lengths}), stages
