"""Teach a pretrained Mamba to name the species of a window of DNA, and measure how well it does.

    python -m pipelines.dna_classify --config great_apes checkpoint=runs/hg38_1k run.dir=runs/apes
    python -m pipelines.dna_classify data.species=my_species.yaml data.folder=genomes run.dir=runs/mine
    python -m pipelines.dna_classify evaluate run.dir=runs/mine
    python -m pipelines.dna_classify predict checkpoint=runs/mine fasta=unknown.fa

The run folder gets what dna_pretrain's has, and at the end evaluation.json and pictures of it, made from the
checkpoint with the lowest validation loss; `evaluate` makes them again. `predict --help` explains predict.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bio.species.dataset import WindowList
from bio.species.segments import SpeciesData
from core.models.classifier import SequenceClassifier
from core.training import Stage, Validate, World, distributed_world, stage_table, start_run, train
from pipelines.common import dna_predict
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.dna_answers import Answers
from pipelines.common.dna_classification import probabilities
from pipelines.common.dna_classify_config import Config, initial_backbone
from pipelines.common.dna_classify_evaluation import (
    evaluate,
    report_of,
    require_windows,
    start_from_probe,
    windows_to_validate,
)
from pipelines.common.dna_species_data import open_set, training_batches


@command
def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["predict"]:
        dna_predict.run(arguments[1:])
    elif arguments[:1] == ["evaluate"]:
        config = parse_config(Config, [*arguments[1:], "resume=true"], "dna_classify evaluate", __doc__ or "")
        with distributed_world() as world:
            data_config, data = open_set(config.data, world)
            result = evaluate(replace(config, data=data_config), data, world)
        print(f"{report_of(result)}\n{config.run.dir} holds the evaluation.")
    else:
        classify(parse_config(Config, arguments, "dna_classify", __doc__ or ""))


def classify(config: Config) -> None:
    """Train as configured, evaluate the best checkpoint, fill run.dir and print the report."""
    if config.train.backpropagation_length is not None:
        raise ValueError("A classifier reads a window at once: train.backpropagation_length must be null.")
    with distributed_world() as world:
        data_config, data = open_set(config.data, world)
        require_several(data)
        model = new_classifier(config, len(data.names)).to(world.device)
        config = replace(config, data=data_config, model=model.backbone.config)
        batches, stages = training_batches(data, config.data, config.train, config.length_warmup)
        for length in (config.data.length, *config.evaluation.lengths):
            require_windows(config, data, length)
        validate = validation(config, data, world)
        run = start_run(config, world, plan(config, data, model, stages))
        if run is None:
            return
        if config.probe_start and run.latest is None:
            start_from_probe(config, data, model, world)
        train(model, batches, config.train, run, world, "base", validate, stages)
        result = evaluate(config, data, world)
    if world.is_rank_0:
        print(f"{report_of(result)}\n{config.run.dir} holds the run.")


def require_several(data: SpeciesData) -> None:
    if len(data.names) < 2:
        raise ValueError(f"There is only one species, {data.names[0]}: a classifier needs two at least.")


def new_classifier(config: Config, classes: int) -> SequenceClassifier:
    """Return the classifier before training; a checkpoint determines the shape of its backbone."""
    torch.manual_seed(config.train.seed)
    return SequenceClassifier(initial_backbone(config), classes, config.head)


def validation(config: Config, data: SpeciesData, world: World) -> Validate | None:
    """What measures loss (nats) and accuracy on the validation split; None where there is none."""
    if "valid" not in data.stretches:
        return None
    windows, listed = windows_to_validate(config, data, config.data.length)

    def validate(model: nn.Module) -> dict[str, float]:
        found = probabilities(model, WindowList(windows, listed), len(data.names), world)
        answers = Answers(windows, listed, found)
        chosen = found[np.arange(len(listed)), answers.labels]
        return {"loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()), "accuracy": answers.is_right.mean()}

    return validate


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


if __name__ == "__main__":
    sys.exit(main())
