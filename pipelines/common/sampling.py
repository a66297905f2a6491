"""Options, output checks and settings shared by audio_sample and dna_generate."""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from core.checkpoints.checkpoint import run_folder_of
from core.decoding.sampling import SamplingConfig
from core.decoding.sampling_run import SamplingRun, SamplingTask
from core.decoding.state import Model
from pipelines.common.checkpoints import CHECKPOINT, chosen_checkpoint
from pipelines.common.outputs import is_special

STDOUT = "-"


@dataclass(frozen=True)
class SamplingOptions:
    """Options of every sampling pipeline."""

    checkpoint: str = field(metadata={"help": CHECKPOINT})
    count: int = field(default=1, metadata={"help": "number of samples to draw"})
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = field(default=0, metadata={"help": "random seed; it determines every sample"})
    batch_size: int = field(
        default=128, metadata={"help": "samples per batch; halved if a batch does not fit into memory"}
    )
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "precision of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )
    save_every: float = field(default=60.0, metadata={"help": "interval of saved states (seconds)"})
    resume: bool = field(default=False, metadata={"help": "continue an interrupted run"})

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.save_every >= 0:
            raise ValueError(f"save_every is {self.save_every}; it must be at least 0.")

    @property
    def run_folder(self) -> Path:
        """Run folder of the checkpoint: the default output folder."""
        return run_folder_of(Path(self.checkpoint))

    @property
    def checkpoint_file(self) -> Path:
        """Path of the checkpoint, named on stderr. Raises CheckpointError for a folder without one."""
        return chosen_checkpoint(self.checkpoint)

    def sampling_run(
        self, model: Model, task: SamplingTask, state_path: Path | None, settings: Mapping[str, Any] | None
    ) -> SamplingRun:
        """Return a run of the task with these options. Raises ValueError as SamplingRun does."""
        return SamplingRun(
            model,
            task,
            count=self.count,
            sampling=self.sampling,
            seed=self.seed,
            batch_size=self.batch_size,
            precision=self.precision,
            save_every=self.save_every,
            state_path=state_path,
            settings=settings,
            resume=self.resume,
        )


def check_output(output: str | None, resume: bool) -> None:
    """Raise ValueError for resume=true with output to stdout, a pipe or a device."""
    if resume and output is not None and (output == STDOUT or is_special(Path(output))):
        raise ValueError(f"output={output} cannot be resumed; choose a file as output.")


def run_to_stdout(run: SamplingRun) -> None:
    """Run until all samples are complete or the reader closes the pipe."""
    try:
        run.run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more


def sampling_settings(options: SamplingOptions, checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Return the settings that determine the samples; rounding differs between kinds of device."""
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": file_sha256(checkpoint),
        "device": device.type,
        "precision": options.precision,
        "count": options.count,
        "seed": options.seed,
        "sampling": asdict(options.sampling),
    }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
