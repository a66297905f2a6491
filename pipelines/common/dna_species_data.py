"""What every pipeline of species starts from: a set of species, opened, and the windows of its splits."""

from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from bio.species.dataset import SpeciesDataset
from bio.species.segments import SpeciesData, open_species
from bio.species.species_set import read_species
from bio.species.windows import SpeciesWindows, species_windows
from core.training import Batches, Stage, StagedBatches, TrainingConfig, World, doubling_lengths


@dataclass(frozen=True)
class SpeciesConfig:
    """Which species are read, in what windows."""

    species: str = field(
        default=MISSING,
        metadata={
            "help": "set of species: a YAML file (see bio/species/species_set.py), or a name in bio/species"
        },
    )
    folder: str = field(default="data", metadata={"help": "the folder that the set's files are in"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "names of the species; config.yaml keeps a run's own"}
    )
    sha256: str | None = field(
        default=None, metadata={"help": "of all FASTA files together; config.yaml keeps a run's own"}
    )
    length: int = field(default=1024, metadata={"help": "bases in a window"})
    max_n_fraction: float = field(default=0.1, metadata={"help": "leave out windows with more N than this"})
    reverse_complement: bool = field(
        default=True, metadata={"help": "read each training window from a strand drawn at random"}
    )
    mutation: float = field(
        default=0.0,
        metadata={"help": "share of the bases of a training window that random ones take the place of"},
    )
    validation_windows: int | None = field(
        default=64, metadata={"help": "windows of each species that choose the best checkpoint; null: all"}
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
    """How windows grow to data.length, batches staying as large (Mamba, section E.3.4)."""

    start: int | None = field(
        default=None,
        metadata={
            "help": "bases in the first windows, doubled stage by stage to data.length; null: no warm-up"
        },
    )
    steps: int = field(
        default=1024, metadata={"help": "steps in each stage; the last takes those that remain"}
    )

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"length_warmup.steps is {self.steps}; it must be at least 1.")


def open_set(config: SpeciesConfig, world: World) -> tuple[SpeciesConfig, SpeciesData]:
    """The species of a configuration; the first process packs the files, the others wait and read the packs.

    Returns the configuration with the names and the checksum of the species, and the species. Raises
    ValueError if the configuration has other names or another checksum.
    """
    found = read_species(config.species)
    data = world.rank_0_first(lambda: open_species(found, config.folder))
    if config.classes and config.classes != data.names:
        raise ValueError(
            f"{config.species} has the species {', '.join(data.names)}, the run has "
            f"{', '.join(config.classes)}. Name the set that the run began with, or start a new run."
        )
    if config.sha256 not in (None, data.sha256):
        raise ValueError(
            f"The files of {config.species} in {config.folder} are not those that are meant: their sha256 is "
            f"{data.sha256}, data.sha256 is {config.sha256}. Name the folder that the run began with, or "
            "start a new run."
        )
    return replace(config, classes=data.names, sha256=data.sha256), data


def split_windows(
    data: SpeciesData, config: SpeciesConfig, split: str, length: int | None = None
) -> SpeciesWindows:
    """The windows of a split, of data.length or another length."""
    return species_windows(data, split, length or config.length, config.max_n_fraction)


def training_batches(
    data: SpeciesData,
    config: SpeciesConfig,
    train: TrainingConfig,
    growth: GrowthConfig,
    next_base: bool = False,
) -> tuple[Batches, list[Stage]]:
    """The batches of every step, and the stages of the length warm-up, empty where growth.start is None.

    next_base: the windows have one base more, which is only a target. Raises ValueError for a start that
    does not double to data.length, and where the stages before the last take all the steps.
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
