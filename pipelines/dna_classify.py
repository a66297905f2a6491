"""Teach a pretrained Mamba to name the species of a window of DNA, and measure how well it does.

    python -m pipelines.dna_classify --config great_apes checkpoint=runs/hg38_1k run.dir=runs/apes
    python -m pipelines.dna_classify data.species=my_species.yaml data.folder=genomes run.dir=runs/mine
    python -m pipelines.dna_classify evaluate run.dir=runs/mine
    python -m pipelines.dna_classify predict checkpoint=runs/mine fasta=unknown.fa

The run folder gets what dna_pretrain's has, and at the end evaluation.json and pictures of it, made from the
checkpoint with the lowest validation loss; `evaluate` makes them again. `predict --help` explains predict.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bio.species_dataset import WindowList
from bio.species_stretch import SpeciesData
from bio.species_window import SpeciesWindows, Window
from bio.vocabulary import VOCABULARY_SIZE
from core.checkpoint import read_header
from core.classifier import HeadConfig, SequenceClassifier
from core.files import replaced_atomically
from core.model import SequenceModel, SequenceModelConfig
from core.training import RunFolder, Stage, TrainingConfig, Validate, World, joined_world, stage_table, train
from core.training.step import autocast
from pipelines import dna_predict
from pipelines.cli import command
from pipelines.config import RunConfig, parse_config
from pipelines.dna import trained_model
from pipelines.dna_answers import Answers, content, report
from pipelines.dna_baseline import Examples, coefficients, fitted, kmer_examples, labels_of
from pipelines.dna_classification import EvaluationConfig, Probabilities, embeddings, probabilities
from pipelines.dna_classifier import best_checkpoint, trained_classifier
from pipelines.dna_species_data import GrowthConfig, SpeciesConfig, open_set, split_windows, training_batches
from pipelines.species_pictures import draw_accuracy_by_length, draw_confusion

RESULT = "evaluation.json"
MakeExamples = Callable[[SpeciesWindows, Sequence[Window]], Examples]
FIT_SEED = 1  # other windows than those of training


@dataclass
class Config:
    data: SpeciesConfig = field(default_factory=SpeciesConfig)
    checkpoint: str | None = field(
        default=None,
        metadata={"help": "what to start from: a run folder of dna_pretrain, or a file; null: from nothing"},
    )
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=8)
    )
    head: HeadConfig = field(default_factory=HeadConfig)
    probe_start: bool = field(
        default=True,
        metadata={"help": "begin the head at the logistic regression on the frozen backbone; else at random"},
    )
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=1e-3))
    length_warmup: GrowthConfig = field(default_factory=GrowthConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_classify"))
    resume: bool = field(default=False, metadata={"help": "continue the run in run.dir, as configured then"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and end"})


@command
def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["predict"]:
        dna_predict.run(arguments[1:])
    elif arguments[:1] == ["evaluate"]:
        config = parse_config(Config, [*arguments[1:], "resume=true"], "dna_classify evaluate", __doc__ or "")
        with joined_world() as world:
            result = evaluate(config, open_set(config.data, world), world)
        print(f"{report_of(result)}\n{config.run.dir} holds the evaluation.")
    else:
        classify(parse_config(Config, arguments, "dna_classify", __doc__ or ""))


def classify(config: Config) -> None:
    """Train as configured, evaluate the best checkpoint, fill run.dir and print the report."""
    if config.train.backpropagation_length is not None:
        raise ValueError("A classifier reads a window at once: train.backpropagation_length must be null.")
    with joined_world() as world:
        data = open_set(config.data, world)
        require_several(data)
        model = new_classifier(config, len(data.names)).to(world.device)
        world.rows(config.train.batch_size)  # raises before there is a run folder
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        require_lengths(config, data)
        validate = validation(config, data, world)
        if world.is_first:
            print(plan(config, data, model, stages), flush=True)
        if config.dry_run:
            return
        settled = asdict(replace(config, resume=False))  # config.yaml is to start a new run as well
        run = RunFolder(Path(config.run.dir), settled, config.resume, world.is_first)
        if config.probe_start and run.latest is None:
            start_from_probe(config, data, model, world)
        train(model, batches, config.train, run, world, "base", validate, stages)
        result = evaluate(config, data, world)
    if world.is_first:
        print(f"{report_of(result)}\n{config.run.dir} holds the run.")


def require_several(data: SpeciesData) -> None:
    if len(data.names) < 2:
        raise ValueError(f"There is only one species, {data.names[0]}: a classifier needs two at least.")


def require_lengths(config: Config, data: SpeciesData) -> None:
    """Raise ValueError, before hours of training, where what is measured after it has no windows."""
    for split in ("train", "valid", config.evaluation.split):
        for length in (config.data.length, *config.evaluation.lengths):
            if split in data.stretches or split == config.evaluation.split:
                split_windows(data, config.data, split, length)


def new_classifier(config: Config, classes: int) -> SequenceClassifier:
    """The classifier before training; takes the shape of the checkpoint into the configuration."""
    torch.manual_seed(config.train.seed)
    backbone = initial_backbone(config)
    config.model = backbone.config
    return SequenceClassifier(backbone, classes, config.head)


def initial_backbone(config: Config) -> SequenceModel:
    """What training starts from: the checkpoint's model, or new parameters drawn from the seed."""
    if config.checkpoint is not None:
        return trained_model(Path(config.checkpoint), torch.device("cpu")).train()
    if config.model.vocab_size != VOCABULARY_SIZE:
        raise ValueError(f"model.vocab_size is {config.model.vocab_size}; DNA has {VOCABULARY_SIZE} symbols.")
    return SequenceModel(config.model)


def validation(config: Config, data: SpeciesData, world: World) -> Validate | None:
    """What measures loss (nats) and accuracy on the validation split; None where there is none."""
    if "valid" not in data.stretches:
        return None
    windows = split_windows(data, config.data, "valid")
    listed = listed_for_validation(config, windows)

    def validate(model: nn.Module) -> dict[str, float]:
        found = probabilities(model, WindowList(windows, listed), len(data.names), world)
        answers = Answers(windows, listed, found)
        chosen = found[np.arange(len(listed)), answers.labels]
        return {"loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()), "accuracy": answers.is_right.mean()}

    return validate


def listed_for_validation(config: Config, windows: SpeciesWindows) -> list[Window]:
    """Windows that overlap by three quarters: long ones would be too few to choose a checkpoint by."""
    return windows.listed(config.data.validation_windows, max(1, windows.length // 4))


def plan(config: Config, data: SpeciesData, model: nn.Module, stages: Sequence[Stage]) -> str:
    """What a run will do: the species and splits, the model, the amount."""
    lines = [f"species   {', '.join(data.names)}"]
    for split, of_classes in data.stretches.items():
        bases = [sum(len(stretch.bases) for stretch in stretches) for stretches in of_classes]
        count = sum(map(len, of_classes))
        lines.append(
            f"{split:<9} {count:,} sequence(s), {min(bases):,} to {max(bases):,} bases a species, windows of "
            f"{config.data.length:,}"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    steps = stages[-1].end if stages else config.train.steps
    lines += [
        f"model     {config.model.n_layer} blocks of width {config.model.d_model}, {parameters:,} parameters",
        f"start     {config.checkpoint or 'new parameters'}",
        f"training  {steps:,} steps of {config.train.batch_size:,} windows",
    ]
    return "\n".join(lines + ([stage_table(stages)] if stages else []))


def evaluate(config: Config, data: SpeciesData, world: World) -> dict[str, Any]:
    """Measure the run's best checkpoint at every length beside k-mers and the frozen backbone.

    The first process writes evaluation.json and the pictures.
    """
    folder = Path(config.run.dir)
    path = best_checkpoint(folder)
    model = trained_classifier(path, world.device).model
    progress = read_header(path).progress
    result = {
        "species": config.data.species,
        "classes": data.names,
        "split": config.evaluation.split,
        "step": progress["step"],
        "validation": progress["validation"],
        "lengths": [
            measured(config, data, model, length, world)
            for length in sorted({config.data.length, *config.evaluation.lengths})
        ],
    }
    if world.is_first:
        with replaced_atomically(folder / RESULT) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw_evaluation(result, folder)
    return result


def measured(
    config: Config, data: SpeciesData, model: SequenceClassifier, length: int, world: World
) -> dict[str, Any]:
    """What is measured with windows of one length."""
    chosen, classes = config.evaluation, len(data.names)
    windows = split_windows(data, config.data, chosen.split, length)
    listed = windows.listed(chosen.windows, length)
    tokens = WindowList(windows, listed)
    with autocast(config.train, world.device):
        found = probabilities(
            model, tokens, classes, world, chosen.workers, chosen.both_strands, config.data.length
        )
    others = baselines(config, data, windows, listed, world)
    return content(*(Answers(windows, listed, answered) for answered in (found, *others)))


def draw_evaluation(result: dict[str, Any], folder: Path) -> None:
    """The confusion matrix of each length, and accuracy against length."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for at_length in result["lengths"]:
        length, rows = at_length["length"], at_length["rows"]
        draw_confusion(at_length["confusion"], result["classes"], folder / f"confusion_{length}.png")
        for row in rows:
            lines.setdefault(row["model"], []).append({**row, "length": length})
    draw_accuracy_by_length(lines, 1 / len(result["classes"]), folder / "accuracy_by_length.png")


def report_of(result: dict[str, Any]) -> str:
    """An evaluation in words."""
    return "\n\n".join(report(result["classes"], at_length) for at_length in result["lengths"])


def baselines(
    config: Config, data: SpeciesData, windows: SpeciesWindows, listed: Sequence[Window], world: World
) -> list[Probabilities]:
    """The probabilities (windows, classes) of logistic regressions, fitted on windows of the same length.

    The first is on k-mers, the other on the pooled vectors of the backbone before training.
    """
    torch.manual_seed(config.train.seed)
    backbone = initial_backbone(config).to(world.device).eval()
    features: list[MakeExamples] = [
        lambda windows, listed: kmer_examples(windows, listed, config.evaluation.k),
        lambda windows, listed: embedded(config, backbone, world, windows, listed),
    ]
    return [
        fitted(*fitting_examples(config, data, examples, windows.length)).predict_proba(
            examples(windows, listed).features
        )
        for examples in features
    ]


def start_from_probe(config: Config, data: SpeciesData, model: SequenceClassifier, world: World) -> None:
    """Begin the head at the logistic regression on the frozen backbone."""
    backbone = model.backbone.eval()
    train, valid = fitting_examples(
        config,
        data,
        lambda windows, listed: embedded(config, backbone, world, windows, listed),
        config.data.length,
    )
    model.start_from(torch.from_numpy(train.features), *coefficients(fitted(train, valid)))


def fitting_examples(
    config: Config, data: SpeciesData, examples: MakeExamples, length: int
) -> tuple[Examples, Examples | None]:
    """What a baseline is fitted on, and what its regularization is chosen by, in windows of one length."""
    fit = split_windows(data, config.data, "train", length)
    count = max(1, min(config.evaluation.fit_windows, config.evaluation.fit_bases // length))
    train = examples(fit, fit.sample(np.arange(count), FIT_SEED))
    if "valid" not in data.stretches:
        return train, None
    valid = split_windows(data, config.data, "valid", length)
    return train, examples(valid, listed_for_validation(config, valid))


def embedded(
    config: Config, backbone: SequenceModel, world: World, windows: SpeciesWindows, listed: Sequence[Window]
) -> Examples:
    """The pooled hidden vectors of windows, as the head reads them."""
    with autocast(config.train, world.device):
        chosen = WindowList(windows, listed)
        found = embeddings(backbone, chosen, config.head.pooling, world, config.evaluation.workers)
    return Examples(found, labels_of(listed))


if __name__ == "__main__":
    sys.exit(main())
