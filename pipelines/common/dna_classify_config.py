"""What a run of dna_classify is configured by, and the model that it starts from."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from bio.dna_model import load_model, new_model
from bio.genome.vocabulary import VOCABULARY_SIZE
from core.models.classifier import HeadConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import TrainingConfig
from pipelines.common.config import RunConfig
from pipelines.common.dna_classification import EvaluationConfig
from pipelines.common.dna_species_data import GrowthConfig, SpeciesConfig


@dataclass(frozen=True)
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


def initial_backbone(config: Config) -> SequenceModel:
    """What training starts from: the checkpoint's model, or new parameters drawn from the seed."""
    if config.checkpoint is not None:
        return load_model(Path(config.checkpoint), torch.device("cpu")).train()
    return new_model(config.model)
