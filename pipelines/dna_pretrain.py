"""Pretrain a Mamba on a genome: predict each base from those before it.

    python -m pipelines.dna_pretrain data.fasta=genome.fa.gz run.dir=runs/mine
    python -m pipelines.dna_pretrain run.dir=runs/mine --resume
    torchrun --nproc-per-node 8 -m pipelines.dna_pretrain --config NAME data.fasta=genome.fa.gz

The run folder gets config.yaml, metrics.jsonl, TensorBoard events, checkpoints, the last validation as a
table and a picture, and at the end summary.json and loss_curve.png.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import MISSING

from bio.rule import split_overlap
from bio.span import total
from bio.vocabulary import VOCABULARY_SIZE
from core.model import SequenceModel, SequenceModelConfig
from core.training import (
    RunFolder,
    Stage,
    TrainingConfig,
    Validate,
    World,
    joined_world,
    stage_table,
    train,
)
from core.training.batches import rows_at_once
from core.training.progress import Progress
from pipelines.cli import command
from pipelines.config import RunConfig, parse_config
from pipelines.dna import DataConfig, DnaData, evenly_spaced, open_data
from pipelines.dna_stages import LengthWarmupConfig, training_batches
from pipelines.dna_validation import validation
from pipelines.memory import training_gib


@dataclass
class Config:
    data: DataConfig = field(default_factory=lambda: DataConfig(fasta=MISSING))
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=8)
    )
    train: TrainingConfig = field(default_factory=TrainingConfig)
    length_warmup: LengthWarmupConfig = field(default_factory=LengthWarmupConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_pretrain"))
    resume: bool = field(default=False, metadata={"help": "continue the run in run.dir, as configured then"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and end"})


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_pretrain", __doc__ or "")
    progress = pretrain(config)
    if progress is not None:
        print(report(progress, config))


def pretrain(config: Config) -> Progress | None:
    """Train as configured and fill run.dir. Returns the results; None in a dry run and beside process 0."""
    with joined_world() as world:
        data = open_data(config.data, world)
        torch.manual_seed(config.train.seed)
        model = SequenceModel(config.model).to(world.device)
        world.rows(config.train.batch_size)  # raises before there is a run folder
        validate = validate_of(config, data, world)
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        if world.is_first:
            print(plan(config, data, model, stages, world), flush=True)
        if config.dry_run:
            return None
        config.data.sha256 = data.genome.sha256
        settled = asdict(replace(config, resume=False))  # config.yaml is to start a new run as well
        run = RunFolder(Path(config.run.dir), settled, config.resume, world.is_first)
        progress = train(model, batches, config.train, run, world, "base", validate, stages)
        return progress if world.is_first else None


def validate_of(config: Config, data: DnaData, world: World) -> Validate | None:
    """What measures a model's held-out bits per base; None where nothing is held out."""
    if "valid" not in data.held_out:
        return None
    windows = evenly_spaced(data.held_out["valid"], config.data.validation_windows)
    return validation(data.genome, windows, world, Path(config.run.dir))


def plan(config: Config, data: DnaData, model: torch.nn.Module, stages: Sequence[Stage], world: World) -> str:
    """What a run will do: the genome, the windows of each split and their overlap, the model, the amount."""
    genome, train = data.genome, config.train
    bases = sum(record.length for record in genome.records.values())
    tokens = train.steps * train.batch_size * config.data.length
    epochs = train.steps * train.batch_size / len(data.train)
    lines = [f"genome    {config.data.fasta}: {len(genome.records)} record(s), {bases:,} bases"]
    lines += [
        f"{split:<9} {total(data.splits[split]):,} bases, {len(windows):,} windows of {windows.length:,}"
        for split, windows in data.windows.items()
    ]
    lines += [
        f"overlap   {first} and {second} read {shared:,} bases in common (split: {config.data.split})"
        for (first, second), shared in split_overlap(data.windows).items()
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines += [
        f"model     {config.model.n_layer} blocks of width {config.model.d_model}, {parameters:,} parameters",
        f"training  {train.steps:,} steps of {train.batch_size:,} windows: "
        f"{tokens:,} bases, {epochs:.2f} epochs",
        f"memory    about {training_gib(config.model, parameters, at_once(config, world)):.2f} GiB on a GPU",
    ]
    return "\n".join(lines + ([stage_table(stages)] if stages else []))


def at_once(config: Config, world: World) -> int:
    """The bases that one process runs at once, where that is most: at the full length."""
    train, length = config.train, config.data.length
    rows = rows_at_once(len(world.rows(train.batch_size)), length, train.micro_tokens)
    return rows * min(length, train.backpropagation_length or length)


def report(progress: Progress, config: Config) -> str:
    bits = progress.validation.get("bits_per_base")
    measured = f"held-out {bits:.4f} bits per base" if bits is not None else "nothing held out"
    return f"{progress.step:,} steps done, {measured}; {config.run.dir} holds the run."


if __name__ == "__main__":
    sys.exit(main())
