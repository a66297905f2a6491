"""Pretrain a Mamba on the training sequences of a set of species by next-base prediction.

    python -m pipelines.dna_species_pretrain data.species=my_species.yaml data.folder=genomes run.dir=runs/x

All species are sampled equally often. The run folder has the files of dna_pretrain, and dna_classify can
start from it. Test sequences are never read.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from bio.dna_model import new_model
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.scoring.likelihood import base_losses
from bio.species.classifier import BATCH_BASES
from bio.species.dataset import WindowList
from bio.species.run_data import GrowthConfig, SpeciesConfig, open_set, split_windows, training_batches
from bio.species.segments import SpeciesData
from bio.windows.dataset import inputs_and_targets
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import (
    TrainingConfig,
    Validate,
    World,
    count_targets,
    distributed_world,
    start_run,
    train,
)
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config


@dataclass(frozen=True)
class Config:
    data: SpeciesConfig = field(default_factory=SpeciesConfig)
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=8)
    )
    train: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_species_pretrain"))
    resume: bool = field(default=False, metadata={"help": "resume the run in run.dir with its configuration"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and exit"})


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_species_pretrain", __doc__ or "")
    with distributed_world() as world:
        data_config, data = open_set(config.data, world)
        config = replace(config, data=data_config)
        torch.manual_seed(config.train.seed)
        model = new_model(config.model).to(world.device)
        batches, _ = training_batches(data, config.data, config.train, GrowthConfig(), next_base=True)
        validate = validation(config, data, world)
        run = start_run(config, world, plan(config, data, model))
        if run is None:
            return
        progress = train(model, batches, config.train, run, world, "base", validate)
    if world.is_rank_0:
        bits = progress.validation.get("bits_per_base", math.nan)
        print(f"{progress.step:,} steps done, held-out {bits:.4f} bits per base; {config.run.dir} has it.")


def plan(config: Config, data: SpeciesData, model: nn.Module) -> str:
    """Describe the run: species, parameters and amount of training."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"species   {', '.join(data.names)}\n"
        f"model     {config.model.n_layer} blocks of width {config.model.d_model}, "
        f"{parameters:,} parameters\n"
        f"training  {config.train.steps:,} steps of {config.train.batch_size:,} windows"
    )


def validation(config: Config, data: SpeciesData, world: World) -> Validate | None:
    """Return a function that measures loss (nats) and bits per base; None without a validation split."""
    if "valid" not in data.segments:
        return None
    length = config.data.length
    windows = split_windows(data, config.data, "valid", length + 1)
    selection = windows.list_windows(config.data.validation_windows, length + 1)
    rows = max(1, BATCH_BASES // length)
    own = selection[world.rank :: world.size]

    def validate(model: nn.Module) -> dict[str, float]:
        model = cast(SequenceModel, model)
        sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        for packed in DataLoader(WindowList(windows, own), batch_size=rows):
            inputs, targets = inputs_and_targets(packed.to(world.device))
            losses, _ = base_losses(model, inputs, targets, model.initial_state(len(inputs)))
            sums += torch.stack([losses.sum(dtype=torch.float64), count_targets(targets)])
        nats, bases = world.sum(sums).tolist()
        return {"loss": nats / bases, "bits_per_base": nats / bases / math.log(2)}

    return validate


if __name__ == "__main__":
    sys.exit(main())
