"""The batches of a DNA run, and its length warm-up (Gu and Dao 2023, section E.3): windows that double.

A step has equally many bases at every length, so that the batch halves as the windows double.
"""

from dataclasses import dataclass, field

from bio.windows.dataset import GenomeDataset
from core.training import Batches, Stage, StagedBatches, TrainingConfig, doubling_lengths, plan_stages
from pipelines.common.dna import DataConfig, DnaData, windows_of


@dataclass(frozen=True)
class LengthWarmupConfig:
    """How windows grow to data.length. Raises ValueError, naming the key, for a value outside its range."""

    start: int | None = field(
        default=None,
        metadata={
            "help": "bases in the first windows, doubled stage by stage to data.length; null: no warm-up"
        },
    )
    epochs: float = field(
        default=2.0,
        metadata={
            "help": "passes over the training windows in each stage; the last takes the steps that remain"
        },
    )

    def __post_init__(self) -> None:
        if self.start is not None and self.start < 1:
            raise ValueError(f"length_warmup.start is {self.start}; it must be at least 1, or null.")
        if self.epochs <= 0:
            raise ValueError(f"length_warmup.epochs is {self.epochs}; it must be above 0.")


def training_batches(
    data: DnaData, config: DataConfig, train: TrainingConfig, warmup: LengthWarmupConfig
) -> tuple[Batches, list[Stage]]:
    """The batches of every step, and the stages of the warm-up, which has none where warmup.start is None.

    All stages together take train.steps. Raises ValueError for a start that does not double to config.length,
    and where the stages before the last take all the steps.
    """
    if warmup.start is None:
        return _dataset(data, config, train, config.length, train.batch_size), []
    lengths = doubling_lengths(warmup.start, config.length)
    tokens_per_step = config.length * train.batch_size
    datasets = {
        length: _dataset(data, config, train, length, tokens_per_step // length) for length in lengths
    }
    tokens = {length: warmup.epochs * len(datasets[length].windows) * length for length in lengths[:-1]}
    rest = train.steps * tokens_per_step - sum(tokens.values())
    if rest <= tokens_per_step / 2:  # a stage begins at the nearest step
        raise ValueError(
            f"The stages before {config.length:,} bases take {sum(tokens.values()):,.0f} bases, and the run "
            f"has {train.steps * tokens_per_step:,}: raise train.steps, or lower length_warmup.epochs."
        )
    stages = plan_stages({**tokens, config.length: rest}, tokens_per_step)
    return StagedBatches(stages, datasets), stages


def _dataset(
    data: DnaData, config: DataConfig, train: TrainingConfig, length: int, batch_size: int
) -> GenomeDataset:
    windows = data.train
    if length != config.length:
        windows, _ = windows_of(config, data.genome, data.held_out_genome, data.splits, length)
    return GenomeDataset(data.genome, windows, batch_size, train.seed, config.reverse_complement)
