"""Training of any model from integers to logits: `train`, and the data types of a training script."""

from core.training.batches import Batch, Batches
from core.training.config import TrainingConfig
from core.training.distributed import World, distributed_world, single_process_world
from core.training.length_warmup import Stage, StagedBatches, doubling_lengths, plan_stages, stage_table
from core.training.loop import Validate, train
from core.training.loss import IGNORED, count_targets, cross_entropy_sum
from core.training.run_folder import RunFolder, RunFolderError, start_run
from core.training.stopping import NonFiniteError, TrainingInterrupted

__all__ = [
    "IGNORED",
    "Batch",
    "Batches",
    "NonFiniteError",
    "RunFolder",
    "RunFolderError",
    "Stage",
    "StagedBatches",
    "TrainingConfig",
    "TrainingInterrupted",
    "Validate",
    "World",
    "count_targets",
    "cross_entropy_sum",
    "distributed_world",
    "doubling_lengths",
    "plan_stages",
    "single_process_world",
    "stage_table",
    "start_run",
    "train",
]
