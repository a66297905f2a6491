"""Folder of a run: configuration, metrics, TensorBoard events, checkpoints, summary and plot."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from core.checkpoints.checkpoint import (
    BEST,
    Header,
    model_tensors,
    read_header,
    require_same_model,
    save_checkpoint,
    step_checkpoints,
    step_path,
)
from core.settings import setting_differences
from core.storage.atomic import TEMPORARY, remove_leftovers, replaced_atomically, write_json
from core.storage.lock import Lock
from core.training.config import TrainingConfig
from core.training.distributed import World
from core.training.metrics import event_line, standard_json, truncate_metrics
from core.training.progress import Progress
from core.training.report import plot_loss

LOCK = ".lock"
PATHS = ("data.fasta", "data.valid_fasta", "data.folder")
"""Keys that may change on resume: the checksums beside them identify the content."""
HOW_TO_RESUME = "Start the same command with resume=true to continue it."


class RunFolderError(ValueError):
    """A run folder that cannot be used: the folder, the problem and the remedy."""


class RunLocation(Protocol):
    """The `run` group of a configuration."""

    @property
    def dir(self) -> str: ...


class RunConfiguration(Protocol):
    """The part of a configuration (a dataclass) that start_run reads."""

    @property
    def train(self) -> TrainingConfig: ...
    @property
    def run(self) -> RunLocation: ...
    @property
    def resume(self) -> bool: ...
    @property
    def dry_run(self) -> bool: ...


def start_run(config: RunConfiguration, world: World, plan: str) -> "RunFolder | None":
    """Check the batch, print the plan on rank 0 and open the run folder; return None for a dry run.

    config: the resolved configuration. config.yaml stores it with `resume` off, to start new runs as well.
    Raises ValueError if the batch does not divide over the ranks, before there is a folder; RunFolderError
    and CheckpointError as RunFolder does.
    """
    world.rows(config.train.batch_size)
    world.print(plan)
    if config.dry_run:
        return None
    values = asdict(config) | {"resume": False}  # type: ignore[call-overload]
    return RunFolder(Path(config.run.dir), values, config.resume, world.is_rank_0)


class RunFolder:
    """All files of a run. Only the process with `is_writer` changes the folder.

    path: the folder; it must be absent or empty for a new run and hold a run to resume.
    config: resolved configuration of the run, plain values; a resumed run must have the same "model", "data"
    and seed. Other changes are allowed; `begin` records them as the event "resumed".
    `latest` is the checkpoint to resume from, None for a new run.

    Raises RunFolderError if the folder is in use, absent or read-only, or holds a run on other data,
    CheckpointError if its latest checkpoint is damaged or of another model, InUseError if another process
    writes the run; the folder does not change then.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool = False, is_writer: bool = True):
        self.path = path
        self.config: dict[str, Any] = json.loads(json.dumps(config))
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.latest: Path | None = None
        self._is_writer = is_writer
        self._is_new = is_writer and not path.exists()
        self._changes: list[str] = []
        self._tokens = 0
        self._lock = Lock(path / LOCK, path, "name another run.dir")
        self._metrics_file: TextIOWrapper | None = None
        self._tensorboard: SummaryWriter | None = None
        if resume:
            self._find_run()
        elif is_writer:
            self._require_unused()
        if is_writer:
            self._write_config()

    def require_space(self, model: nn.Module, keep: int, with_average: bool) -> None:
        """Raise RunFolderError if the disk is too small for the checkpoints of the run."""
        if not self._is_writer:
            return
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model_tensors(model).values())
        kept_and_next = (keep + 1) * weights * (4 if with_average else 3)
        present = sum(file.stat().st_size for file in step_checkpoints(self.checkpoints))
        needed = kept_and_next + 2 * weights - present
        free = shutil.disk_usage(self.path).free
        if free < needed:
            if self.latest is None:
                self._remove_new_files()
            raise RunFolderError(
                f"The disk of the run folder {self.path} has {free / 2**20:.0f} MiB free, but {keep} "
                f"checkpoints of this model need {needed / 2**20:.0f} MiB more. Free some space, keep fewer "
                "checkpoints, or choose another folder."
            )

    def begin(self, step: int) -> None:
        """Open the logs to continue after `step`; later events of an earlier process are dropped.

        If settings changed since the checkpoint, the event "resumed" names them and the tokens seen so far.
        """
        if not self._is_writer:
            return
        remove_leftovers(self.checkpoints)
        truncate_metrics(self.metrics, step)
        self._metrics_file = self.metrics.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        if self._changes:
            self.log("resumed", step, {"changes": self._changes, "tokens": self._tokens})

    def log(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append an event to metrics.jsonl and its numbers to TensorBoard."""
        if self._metrics_file is None or self._tensorboard is None:
            return
        try:
            self._metrics_file.write(event_line(event, step, dict(values)))
            self._metrics_file.flush()
        except OSError as error:
            raise self._unwritable(self.metrics, error) from error
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self._tensorboard.add_scalar(f"{event}/{key}", value, step)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Tensor] | None,
        progress: Progress,
        keep: int,
    ) -> None:
        """Write the checkpoint of this step, then delete all but the latest `keep`."""
        if self._metrics_file is None:
            return
        os.fsync(self._metrics_file.fileno())  # events reach the disk before their checkpoint
        path = step_path(self.checkpoints, progress.step)
        save_checkpoint(path, model, self.config, asdict(progress), optimizer, average)
        self.latest = path
        for old in step_checkpoints(self.checkpoints)[:-keep]:
            old.unlink()

    def save_best(self, model: nn.Module, average: Mapping[str, Tensor] | None, progress: Progress) -> None:
        """Write the weights with the lowest validation loss, without optimizer, to best.safetensors."""
        if self._is_writer:
            path = self.checkpoints / BEST
            save_checkpoint(path, model, self.config, asdict(progress), average=average)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and loss_curve.png."""
        if not self._is_writer:
            return
        content = standard_json(dict(summary))
        try:
            write_json(self.path / "summary.json", content, indent=2, allow_nan=False)
            with replaced_atomically(self.path / "loss_curve.png") as temporary:
                plot_loss(self.metrics, temporary)
        except OSError as error:
            raise self._unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the logs."""
        if self._metrics_file is not None:
            self._metrics_file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._lock.release()

    def _find_run(self) -> None:
        """Set `latest`; a run killed before its first checkpoint starts again."""
        if not self.path.is_dir():
            raise RunFolderError(f"There is no run folder {self.path} to resume; check its name.")
        if not (self.path / "config.yaml").exists() and self._is_writer:
            self._require_unused()
        checkpoints = step_checkpoints(self.checkpoints)
        if checkpoints:
            self.latest = checkpoints[-1]
            header = read_header(self.latest)
            require_same_model(header, self.config)
            self._require_same_data(header)
            self._changes = setting_differences(header.config, self.config, ignored=("run.dir", *PATHS))
            self._tokens = header.progress.get("tokens", 0)

    def _require_same_data(self, header: Header) -> None:
        """Raise RunFolderError if the data or the seed of the run differ from those of its checkpoint."""
        differences = setting_differences(
            _data_settings(header.config), _data_settings(self.config), ignored=PATHS
        )
        if differences:
            raise RunFolderError(
                f"The run in {self.path} has other data or another seed: {'; '.join(differences)}. Resume "
                "with the values of the run, or start a new run in another folder."
            )

    def _require_unused(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"The run folder {self.path} is a file; choose another name.")
        if (self.path / "config.yaml").exists():
            raise RunFolderError(
                f"The run folder {self.path} already holds a run. {HOW_TO_RESUME} For a new run choose "
                "another folder, or delete this one."
            )
        if self.path.exists() and any(
            file.suffix != TEMPORARY and file.name != LOCK for file in self.path.iterdir()
        ):
            raise RunFolderError(
                f"The folder {self.path} is not empty and holds no run; choose another as run folder."
            )

    def _write_config(self) -> None:
        """Write config.yaml, the first file of the run, which also tests whether the folder is writable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            with replaced_atomically(self.path / "config.yaml") as temporary:
                temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(self.config)), encoding="utf-8")
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            self._remove_new_files()
            raise self._unwritable(self.path, error) from error

    def _remove_new_files(self) -> None:
        """Give a run folder back as it was before a run that cannot start."""
        self._lock.release()
        if self._is_new:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.latest is None and not self.metrics.exists():
            (self.path / "config.yaml").unlink(missing_ok=True)
            with suppress(OSError):
                self.checkpoints.rmdir()

    def _unwritable(self, path: Path, error: OSError) -> RunFolderError:
        return RunFolderError(
            f"{path} cannot be written ({error.strerror or error}). Free some space, change the permissions, "
            "or choose another run folder."
        )


def _data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a resumed run must share: the data, and the seed of the training."""
    return {"data": config.get("data", {}), "train": {"seed": config.get("train", {}).get("seed")}}
