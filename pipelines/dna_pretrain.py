"""Pretrain a Mamba on a genome: predict each base from the bases before it.

    python -m pipelines.dna_pretrain data.fasta=genome.fa.gz run.dir=runs/mine
    python -m pipelines.dna_pretrain run.dir=runs/mine --resume
    torchrun --nproc-per-node 8 -m pipelines.dna_pretrain --config NAME data.fasta=genome.fa.gz

The run folder gets config.yaml, metrics.jsonl, TensorBoard events, checkpoints, the last validation as a
table and a plot, and at the end summary.json and loss_curve.png.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import MISSING

from bio.dna_model import new_model
from bio.genome.genome import Genome
from bio.genome.spans import total
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.scoring.evaluation import validation
from bio.scoring.markov import check_order, markov_baseline
from bio.windows.leakage import K
from bio.windows.splits import separate, split_overlap
from bio.windows.training_data import (
    DataConfig,
    LengthWarmupConfig,
    TrainingData,
    open_data,
    training_batches,
)
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import (
    Stage,
    TrainingConfig,
    World,
    distributed_world,
    stage_table,
    start_run,
    train,
)
from core.training.batches import rows_per_pass
from core.training.memory import training_gib
from core.training.progress import Progress
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config


@dataclass(frozen=True)
class Config:
    data: DataConfig = field(default_factory=lambda: DataConfig(fasta=MISSING))
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=8)
    )
    train: TrainingConfig = field(default_factory=TrainingConfig)
    length_warmup: LengthWarmupConfig = field(default_factory=LengthWarmupConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_pretrain"))
    resume: bool = field(default=False, metadata={"help": "resume the run in run.dir with its configuration"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and exit"})

    def __post_init__(self) -> None:
        for order in self.data.markov_orders:
            check_order(order)


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_pretrain", __doc__ or "")
    progress = pretrain(config)
    if progress is not None:
        print(report(progress, config))


def pretrain(config: Config, table_folder: Path | None = None) -> Progress | None:
    """Train and fill run.dir. Return the progress; None on other ranks, and after a dry run.

    table_folder: folder that caches the table of Markov models; run.dir by default.
    """
    with distributed_world() as world:
        try:
            data = open_data(config.data, world)
        except FileNotFoundError:
            if config.dry_run and world.is_rank_0:
                print("\n".join(model_lines(config, world)), flush=True)
            raise
        torch.manual_seed(config.train.seed)
        model = new_model(config.model).to(world.device)
        windows = data.validation_windows(config.data.validation_windows)
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        config = replace(config, data=with_checksums(config.data, data))
        run = start_run(config, world, plan(config, data, stages, world))
        if run is None:
            return None
        validate = None
        if windows is not None:
            markov: dict[int, float] = {}
            if world.is_rank_0:  # only rank 0 logs
                markov = markov_baseline(
                    data.genome,
                    separate(data.splits)["train"],
                    data.held_out_genome,
                    windows.coverage(),
                    config.data.markov_orders,
                    table_folder or run.path,
                )
            shorter_lengths = [stage.length for stage in stages[:-1]]
            validate = validation(data.held_out_genome, windows, world, run.path, markov, shorter_lengths)
        progress = train(model, batches, config.train, run, world, "base", validate, stages)
        return progress if world.is_rank_0 else None


def with_checksums(config: DataConfig, data: TrainingData) -> DataConfig:
    """Return the configuration with the checksums of its genomes."""
    held_out = None if config.valid_fasta is None else data.held_out_genome.sha256
    return replace(config, sha256=data.genome.sha256, valid_sha256=held_out or config.valid_sha256)


def plan(config: Config, data: TrainingData, stages: Sequence[Stage], world: World) -> str:
    """Return the plan: genomes, windows of each split and their overlap, model, steps and memory."""
    lines = [genome_line("genome", config.data.fasta, data.genome)]
    if config.data.valid_fasta is not None:
        lines.append(genome_line("held out", config.data.valid_fasta, data.held_out_genome))
    lines += [
        f"{split:<9} {total(data.splits[split]):,} bases, {len(windows):,} windows of {windows.length:,}"
        for split, windows in data.windows.items()
    ]
    lines += [*overlap_lines(config, data), *model_lines(config, world)]
    if stages:
        return "\n".join([*lines, stage_table(stages)])
    epochs = config.train.steps * config.train.batch_size / len(data.train)
    return "\n".join([*lines, f"epochs    {epochs:.2f}"])


def model_lines(config: Config, world: World) -> list[str]:
    """Return the part of the plan that needs no genome: model, steps and memory."""
    train = config.train
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SequenceModel(config.model).parameters())
    tokens = train.steps * train.batch_size * config.data.length
    gib = training_gib(config.model, parameters, bases_per_pass(config, world))
    return [
        f"model     {config.model.n_layer} blocks of width {config.model.d_model}, {parameters:,} parameters",
        f"training  {train.steps:,} steps of {train.batch_size:,} windows: {tokens:,} bases",
        f"memory    about {gib:.2f} GiB on a GPU",
    ]


def genome_line(title: str, fasta: str, genome: Genome) -> str:
    """Return the line of the plan for one FASTA file."""
    bases = sum(record.length for record in genome.records.values())
    return f"{title:<9} {fasta}: {len(genome.records)} record(s), {bases:,} bases"


def overlap_lines(config: Config, data: TrainingData) -> list[str]:
    """Return the overlap of the splits: by coordinates within one file, and by k-mers of both strands."""
    limit = f"limit: {config.data.max_shared:.0%}, for repeats"
    kmers = [
        f"overlap   {leak:.2%} of the {K}-mers of {split} are also in train ({limit})"
        for split, leak in data.leaks.items()
        if not math.isnan(leak)
    ]
    if data.held_out_genome is not data.genome:
        return kmers
    return [
        f"overlap   {first} and {second} share {shared:,} bases (split: {config.data.split})"
        for (first, second), shared in split_overlap(data.windows).items()
    ] + kmers


def bases_per_pass(config: Config, world: World) -> int:
    """Return the largest number of bases in one forward pass of a rank, at the full length."""
    train, length = config.train, config.data.length
    rows = rows_per_pass(len(world.rows(train.batch_size)), length, train.micro_tokens)
    return rows * min(length, train.backpropagation_length or length)


def report(progress: Progress, config: Config) -> str:
    """Return the last line of the output."""
    bits = progress.validation.get("bits_per_base")
    result = f"held-out {bits:.4f} bits per base" if bits is not None else "nothing held out"
    return f"{progress.step:,} steps done, {result}; the run is in {config.run.dir}."


if __name__ == "__main__":
    sys.exit(main())
