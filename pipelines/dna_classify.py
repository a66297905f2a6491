"""Fine-tune a pretrained Mamba to classify the species of a DNA window, and evaluate it.

    python -m pipelines.dna_classify --config great_apes checkpoint=runs/hg38_1k run.dir=runs/apes
    python -m pipelines.dna_classify data.species=my_species.yaml data.folder=genomes run.dir=runs/mine
    python -m pipelines.dna_classify evaluate run.dir=runs/mine
    python -m pipelines.dna_classify predict checkpoint=runs/mine fasta=unknown.fa

The run folder has the files of dna_pretrain and, at the end, evaluation.json with plots, from the checkpoint
with the lowest validation loss. `evaluate` repeats the evaluation. `predict --help` explains predict.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bio.dna_model import load_model, new_model
from bio.genome.genome import open_genome
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.species.classifier import load_classifier
from bio.species.evaluation import (
    RESULT,
    Evaluation,
    EvaluationConfig,
    advice,
    draw_evaluation,
    format_report,
)
from bio.species.prediction import RecordPrediction, format_table, merge, predict_records
from bio.species.run_data import GrowthConfig, SpeciesConfig, open_set, training_batches
from bio.species.segments import SpeciesData
from core.checkpoints.checkpoint import read_header, resolve_checkpoint
from core.models.classifier import HeadConfig, SequenceClassifier
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.storage.atomic import replaced_atomically, write_json
from core.training import Stage, TrainingConfig, World, distributed_world, stage_table, start_run, train
from core.training.step import autocast
from pipelines.common.checkpoints import CHECKPOINT, chosen_checkpoint
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config
from pipelines.common.outputs import OVERWRITE, new_outputs

PREDICT_HELP = """Predict the species of each record of a FASTA file, from several of its windows.

    python -m pipelines.dna_classify predict checkpoint=runs/mine fasta=unknown.fa

The windows of a record are evenly spaced; they overlap in a short record, and a record shorter than a window
is read as a whole. The table has one row per record and one for all records: the most probable species, and
the probability of each species, which is the geometric mean over the windows.
"""


@dataclass(frozen=True)
class Config:
    data: SpeciesConfig = field(default_factory=SpeciesConfig)
    checkpoint: str | None = field(
        default=None,
        metadata={"help": "pretrained model: run folder of dna_pretrain, or file; null: new parameters"},
    )
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=8)
    )
    head: HeadConfig = field(default_factory=HeadConfig)
    probe_start: bool = field(
        default=True,
        metadata={"help": "initialize the head by logistic regression on the frozen backbone"},
    )
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=1e-3))
    length_warmup: GrowthConfig = field(default_factory=GrowthConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_classify"))
    resume: bool = field(default=False, metadata={"help": "resume the run in run.dir with its configuration"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and exit"})


@dataclass(frozen=True)
class PredictConfig:
    checkpoint: str = field(metadata={"help": CHECKPOINT})
    fasta: str = field(metadata={"help": "FASTA file to classify: plain, gzip or bgzip; packed once"})
    windows: int = field(default=16, metadata={"help": "windows per record"})
    length: int | None = field(default=None, metadata={"help": "window length (bases); null: as in training"})
    max_n_fraction: float = field(default=0.5, metadata={"help": "largest fraction of N in a window"})
    output: str = field(default="species.tsv", metadata={"help": "table to write"})
    overwrite: bool = field(default=False, metadata={"help": OVERWRITE})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "precision of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        for name in ("windows", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")


@command
def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["predict"]:
        predict(parse_config(PredictConfig, arguments[1:], "dna_classify predict", PREDICT_HELP))
    elif arguments[:1] == ["evaluate"]:
        reevaluate(
            parse_config(Config, [*arguments[1:], "resume=true"], "dna_classify evaluate", __doc__ or "")
        )
    else:
        classify(parse_config(Config, arguments, "dna_classify", __doc__ or ""))


def classify(config: Config) -> None:
    """Train, evaluate the best checkpoint, write run.dir and print the report."""
    if config.train.backpropagation_length is not None:
        raise ValueError("A classifier reads whole windows: train.backpropagation_length must be null.")
    with distributed_world() as world:
        species, data = open_set(config.data, world)
        require_several(data)
        model = new_classifier(config, len(data.names)).to(world.device)
        config = replace(config, data=species, model=model.backbone.config)
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        evaluation = evaluation_of(config, data, world)
        evaluation.require_windows()
        run = start_run(config, world, plan(config, data, model, stages))
        if run is None:
            return
        if config.probe_start and run.latest is None:
            evaluation.start_from_probe(model)
        validate = evaluation.validation()
        train(model, batches, config.train, run, world, "base", validate, stages)
        result = evaluate(config, evaluation)
    if world.is_rank_0:
        print(f"{format_report(result)}\n{config.run.dir} holds the run.")


def reevaluate(config: Config) -> None:
    """Evaluate the best checkpoint of a run again."""
    with distributed_world() as world:
        species, data = open_set(config.data, world)
        config = replace(config, data=species)
        result = evaluate(config, evaluation_of(config, data, world))
    if world.is_rank_0:
        print(f"{format_report(result)}\n{config.run.dir} holds the evaluation.")


def predict(config: PredictConfig) -> None:
    """Write the table of species of each record and print the row of all records."""
    output = Path(config.output)
    with distributed_world() as world, ExitStack() as outputs:
        if world.is_rank_0:
            outputs.enter_context(new_outputs(output, overwrite=config.overwrite))
        classifier = load_classifier(chosen_checkpoint(config.checkpoint), world.device)
        genome = open_genome(config.fasta)
        length = config.length or classifier.length
        with autocast(TrainingConfig(precision=config.precision), world.device):
            predictions = predict_records(
                genome, classifier, world, config.windows, length, config.max_n_fraction
            )
        if world.is_rank_0:
            with replaced_atomically(output) as temporary:
                temporary.write_text(format_table(predictions, classifier.classes), encoding="utf-8")
            print(summary(predictions, classifier.classes, config))


def require_several(data: SpeciesData) -> None:
    if len(data.names) < 2:
        raise ValueError(f"There is only one species, {data.names[0]}: a classifier needs at least two.")


def initial_backbone(config: Config) -> SequenceModel:
    """Return the backbone before training: the checkpoint's, or new parameters from the seed."""
    torch.manual_seed(config.train.seed)
    if config.checkpoint is not None:
        return load_model(Path(config.checkpoint), torch.device("cpu")).train()
    return new_model(config.model)


def new_classifier(config: Config, classes: int) -> SequenceClassifier:
    """Return the classifier before training; a checkpoint determines the shape of its backbone."""
    return SequenceClassifier(initial_backbone(config), classes, config.head)


def evaluation_of(config: Config, data: SpeciesData, world: World) -> Evaluation:
    return Evaluation(data, config.data, config.evaluation, config.head.pooling, config.train, world)


def evaluate(config: Config, evaluation: Evaluation) -> dict[str, Any]:
    """Evaluate the run's best checkpoint; rank 0 writes evaluation.json and the plots."""
    folder, world = Path(config.run.dir), evaluation.world
    path = resolve_checkpoint(folder)
    model = load_classifier(path, world.device).model
    frozen = initial_backbone(config).to(world.device).eval()
    progress = read_header(path).progress
    measurements = evaluation.measure(model, frozen)
    result = {
        "species": config.data.species,
        "classes": evaluation.data.names,
        "split": config.evaluation.split,
        "step": progress["step"],
        "validation": progress["validation"],
        "lengths": measurements,
        "advice": advice(measurements, remedies(config)),
    }
    if world.is_rank_0:
        write_json(folder / RESULT, result)
        draw_evaluation(result, folder)
    return result


def remedies(config: Config) -> list[str]:
    """Return the changes to try, in order, if a run stays below the k-mers."""
    texts = {
        "head.pooling=mean": config.head.pooling != "mean",
        "a pretrained model (checkpoint=RUN of dna_pretrain or dna_species_pretrain)": (
            config.checkpoint is None
        ),
        "probe_start=true": not config.probe_start,
        f"more steps (train.steps is {config.train.steps:,})": True,
        f"longer windows (data.length is {config.data.length:,})": True,
    }
    return [text for text, applies in texts.items() if applies]


def plan(config: Config, data: SpeciesData, model: nn.Module, stages: Sequence[Stage]) -> str:
    """Describe the run: species and splits, model, amount of training."""
    lines = [f"species   {', '.join(data.names)}"]
    for split, by_class in data.segments.items():
        bases = [sum(len(segment.bases) for segment in segments) for segments in by_class]
        count = sum(map(len, by_class))
        lines.append(
            f"{split:<9} {count:,} sequence(s), {min(bases):,} to {max(bases):,} bases per species, "
            f"windows of {config.data.length:,}"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    steps = stages[-1].end if stages else config.train.steps
    lines += [
        f"model     {config.model.n_layer} blocks of width {config.model.d_model}, {parameters:,} parameters",
        f"start     {resolve_checkpoint(Path(config.checkpoint)) if config.checkpoint else 'new parameters'}",
        f"training  {steps:,} steps of {config.train.batch_size:,} windows",
    ]
    return "\n".join(lines + ([stage_table(stages)] if stages else []))


def summary(predictions: Sequence[RecordPrediction], classes: Sequence[str], config: PredictConfig) -> str:
    """Return the row of all records as a sentence."""
    together = merge(predictions)
    name, shares = together.species(classes)
    by_share = sorted(zip(shares, classes, strict=True), reverse=True)
    listing = ", ".join(f"{other} {share:.1%}" for share, other in by_share)
    return (
        f"{config.fasta}: {name}, from {len(together.probabilities):,} windows of {len(predictions):,} "
        f"record(s) ({listing}); {config.output} holds the table."
    )


if __name__ == "__main__":
    sys.exit(main())
