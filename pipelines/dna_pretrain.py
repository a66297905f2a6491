"""Pretrain a Mamba on a genome: predict each base from the bases before it.

    python -m pipelines.dna_pretrain data.fasta=genome.fa.gz run.dir=runs/mine
    python -m pipelines.dna_pretrain run.dir=runs/mine --resume
    python -m pipelines.dna_pretrain checkpoint=runs/mine data.fasta=other.fa.gz run.dir=runs/continued
    torchrun --nproc-per-node 8 -m pipelines.dna_pretrain --config NAME data.fasta=genome.fa.gz

checkpoint= continues pretraining: the parameters and the shape of the model come from it, the optimizer is
new. The run folder gets config.yaml, metrics.jsonl, TensorBoard events, checkpoints, the last validation as a
table and a plot, and at the end summary.json and loss_curve.png. A test split is scored once, at the end,
with the best checkpoint.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from bio.dna_model import load_model, new_model
from bio.genome.genome import Genome
from bio.genome.spans import total
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.scoring.evaluation import TABLE, evaluate, read_validation, validation
from bio.scoring.markov import TEST_TABLE, check_order, markov_baseline
from bio.windows.leakage import K
from bio.windows.splits import separate, split_overlap
from bio.windows.training_data import (
    DataConfig,
    LengthWarmupConfig,
    TrainingData,
    open_data,
    training_batches,
)
from bio.windows.window import TiledWindows
from core.checkpoints.checkpoint import load_weights, resolve_checkpoint, step_checkpoints
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.settings import setting_differences
from core.storage.atomic import write_json
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
from core.training.step import autocast
from pipelines.common.cli import command
from pipelines.common.config import ConfigError, RunConfig, parse_config, read_yaml


@dataclass(frozen=True)
class Config:
    data: DataConfig = field(default_factory=lambda: DataConfig(fasta=MISSING))
    checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "start of continued pretraining: run folder (its best checkpoint) or file, which also "
            "gives the shape of the model; null: new parameters"
        },
    )
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
    config = with_checkpoint(config)
    with distributed_world() as world:
        try:
            data = open_data(config.data, world)
        except FileNotFoundError:
            if config.dry_run and world.is_rank_0:
                print("\n".join(model_lines(config, world)), flush=True)
            raise
        model = initial_model(config).to(world.device)
        config = replace(config, model=model.config)
        windows = data.held_out_windows("valid", config.data.validation_windows)
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        config = replace(config, data=with_checksums(config.data, data))
        run = start_run(config, world, plan(config, data, stages, world))
        if run is None:
            return None
        tables = table_folder or run.path
        validate = None
        if windows is not None:
            markov: dict[int, float] = {}
            if world.is_rank_0:  # only rank 0 logs
                markov = markov_bits_by_order(config, data, windows, tables)
            shorter_lengths = [stage.length for stage in stages[:-1]]
            validate = validation(data.held_out_genome, windows, world, run.path, markov, shorter_lengths)
        progress = train(model, batches, config.train, run, world, "base", validate, stages)
        test_windows = data.held_out_windows("test", config.data.validation_windows)
        if test_windows is not None:
            score_test(config, data, test_windows, model, world, tables)
        return progress if world.is_rank_0 else None


def with_checkpoint(config: Config) -> Config:
    """Return the configuration with the checkpoint file of `checkpoint`; a resumed run keeps its own.

    Raises ConfigError for a resumed run with another checkpoint, CheckpointError for a folder without one.
    """
    stored_file = Path(config.run.dir, "config.yaml")
    path = None
    if config.checkpoint is not None:
        path = str(resolve_checkpoint(Path(config.checkpoint)))
    if not (config.resume and stored_file.is_file()):
        return replace(config, checkpoint=path)
    settings = read_yaml(str(stored_file))
    stored = next((setting.value for setting in settings if setting.key == "checkpoint"), None)
    if config.checkpoint not in (None, stored) and path != stored:
        start = "new parameters" if stored is None else stored
        raise ConfigError(
            f"checkpoint is {config.checkpoint}, but the run in {config.run.dir} started from {start}, and a "
            "resumed run continues from its own checkpoints. Leave out checkpoint, or leave out resume and "
            "choose another run.dir."
        )
    return replace(config, checkpoint=stored)


def initial_model(config: Config) -> SequenceModel:
    """Return the model before training: that of the checkpoint, or new parameters from the seed.

    Raises ConfigError if keys of `model` contradict the checkpoint.
    """
    torch.manual_seed(config.train.seed)
    is_resumed = config.resume and bool(step_checkpoints(Path(config.run.dir, "checkpoints")))
    if config.checkpoint is None or is_resumed:
        return new_model(config.model)
    loaded = load_model(Path(config.checkpoint), torch.device("cpu"))
    shape = replace(loaded.config, recompute=config.model.recompute)  # no part of the shape
    differences = setting_differences(asdict(shape), asdict(config.model), prefix="model")
    if differences and config.model != replace(Config().model, recompute=shape.recompute):
        raise ConfigError(
            f"The checkpoint {config.checkpoint} is of another model: {'; '.join(differences)}. Its shape "
            "counts: leave out these keys, or give the values of the checkpoint."
        )
    model = new_model(shape)
    model.load_state_dict(loaded.state_dict())
    return model


def markov_bits_by_order(
    config: Config, data: TrainingData, windows: TiledWindows, folder: Path, **table: str
) -> dict[int, float]:
    """Return the bits per base of the Markov models of data.markov_orders on held-out windows."""
    return markov_baseline(
        data.genome,
        separate(data.splits)["train"],
        data.held_out_genome,
        windows.coverage(),
        config.data.markov_orders,
        folder,
        **table,
    )


def score_test(
    config: Config,
    data: TrainingData,
    windows: TiledWindows,
    model: SequenceModel,
    world: World,
    folder: Path,
) -> None:
    """Score the test windows with the best checkpoint; rank 0 adds the result to summary.json as `test`."""
    path = resolve_checkpoint(Path(config.run.dir))
    header = load_weights(path, model)
    with autocast(config.train, world.device):
        evaluation = evaluate(model.eval(), data.held_out_genome, windows, world)
    if not world.is_rank_0:
        return
    markov = markov_bits_by_order(config, data, windows, folder, table=TEST_TABLE)
    result = {
        "checkpoint": path.name,
        "step": header.step,
        "bases": evaluation.all.bases,
        **evaluation.metrics(),
        "markov": [{"order": order, "bits_per_base": bits} for order, bits in markov.items()],
    }
    write_json(summary_file(config), {**read_summary(config), "test": result}, indent=2, allow_nan=False)


def summary_file(config: Config) -> Path:
    return Path(config.run.dir, "summary.json")


def read_summary(config: Config) -> dict[str, Any]:
    """Return the content of the run's summary.json."""
    content: dict[str, Any] = json.loads(summary_file(config).read_text(encoding="utf-8"))
    return content


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
        f"start     {config.checkpoint or 'new parameters'}",
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
    """Return the end of the output: held-out bits beside Markov models, and the result of the test split."""
    bits = progress.validation.get("bits_per_base")
    result = f"held-out {bits:.4f} bits per base" if bits is not None else "nothing held out"
    lines = [f"{progress.step:,} steps done, {result}; the run is in {config.run.dir}."]
    folder = Path(config.run.dir)
    if bits is not None and (folder / TABLE).is_file():
        markov = read_validation(folder)["markov"]
        lines += [bits_table(named_markov(markov) | {"Mamba": bits})] if markov else []
    if test := read_summary(config).get("test"):
        lines.append(
            f"test {test['bits_per_base']:.4f} bits per base over {test['bases']:,} bases "
            f"({test['checkpoint']}, step {test['step']:,})"
        )
        if test["markov"]:
            lines.append(bits_table(named_markov(test["markov"]) | {"Mamba": test["bits_per_base"]}, "test"))
    return "\n".join(lines)


def named_markov(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the bits per base of Markov models by their names in the tables."""
    return {f"Markov {row['order']}": row["bits_per_base"] for row in rows}


def bits_table(bits: dict[str, float], split: str = "held-out") -> str:
    """Return the bits by model, with the difference between the Mamba and the best other model."""
    best = min((name for name in bits if name != "Mamba"), key=bits.__getitem__)
    gain = bits[best] - bits["Mamba"]
    sign = "better" if gain > 0 else "worse"
    notes = {"Mamba": f"{abs(gain):.4f} bits per base {sign} than {best}, the best of them"}
    lines = [f"{name:<10}  {value:.4f}  {notes.get(name, '')}".rstrip() for name, value in bits.items()]
    return "\n".join([f"{split} bits per base (a uniform guess among A, C, G, T costs 2)", *lines])


if __name__ == "__main__":
    sys.exit(main())
