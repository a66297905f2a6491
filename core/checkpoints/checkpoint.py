"""Checkpoints: safetensors files, written atomically and read without executing code.

Tensors have the names `model.<name>`, `average.<name>` (moving average of the parameters, if there is one)
and `optimizer.<key>.<name>` (exp_avg, exp_avg_sq, step). The header holds the format version, and the
configuration and the progress of the run as JSON, and checksums (core.storage.tensors). A tied parameter is
stored once, under its first name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.settings import setting_differences
from core.storage.tensors import DamagedError, read_metadata, read_tensors, write_tensors

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run folder."""
BEST = "best.safetensors"
"""The checkpoint with the lowest validation loss."""
_REMEDY = "Copy it again from its source, or move it elsewhere and use an earlier one."
_KINDS = {
    b"PK\x03\x04": "a file of torch.save (a zip archive)",
    b"\x80\x02": "a pickle, as of torch.save",
    b"\x80\x04": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"\x1f\x8b": "a gzip file",
    b"RIFF": "a WAV file",
    b"GGUF": "a GGUF file",
    b">": "a FASTA file",
}
"""Kinds of files that are given as checkpoints, by their first bytes."""
_STEP_NAME = re.compile(r"step-(\d+)\.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used: the file, the problem and the remedy."""


@dataclass(frozen=True)
class Header:
    """Header of a checkpoint: configuration and progress (at least `step`) of its run."""

    path: Path
    config: dict[str, Any]
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.progress["step"])


def save_checkpoint(
    path: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    progress: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Write one checkpoint atomically.

    average: moving averages by the names of the parameters. Raises CheckpointError if the file cannot be
    written (no space, no permission).
    """
    tensors = _with_prefix("model", model_tensors(model)) | _with_prefix("average", average or {})
    if optimizer is not None:
        tensors |= _with_prefix("optimizer", _optimizer_tensors(optimizer, model))
    header = {
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config),
        "progress": json.dumps(progress),
    }
    try:
        write_tensors(path, tensors, header)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} could not be written ({error.strerror or error}). Free some space there "
            "or choose another folder; earlier checkpoints are intact."
        ) from error


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: dict[str, Tensor] | None = None,
) -> Header:
    """Restore the model, and the optimizer and the moving average if given, in place.

    A checkpoint without an average sets `average` to the model's parameters. Raises CheckpointError if the
    file is damaged, of a newer format or of another model; nothing changes then.
    """
    header, tensors = _read(path)
    weights = _under("model", tensors)
    require_same_tensors(path, weights, model)
    _copy(weights, model_tensors(model))
    if average is not None:
        stored = _under("average", tensors)
        _copy({name: stored.get(name, weights[name]) for name in average}, average)
    if optimizer is not None:
        _restore_optimizer(optimizer, model, _under("optimizer", tensors))
    return header


def load_weights(path: Path, model: nn.Module) -> Header:
    """Restore a model for inference: the moving average if the checkpoint has one, else the parameters.

    Raises CheckpointError as load_checkpoint does.
    """
    header, tensors = _read(path)
    weights = _under("model", tensors) | _under("average", tensors)
    require_same_tensors(path, weights, model)
    _copy(weights, model_tensors(model))
    return header


def read_header(path: Path) -> Header:
    """Return the configuration and progress of a checkpoint without reading its tensors.

    Raises CheckpointError if the file is missing, damaged, not a checkpoint, or of a newer format.
    """
    with _readable(path):
        return _header(path, read_metadata(path))


def step_checkpoints(folder: Path) -> list[Path]:
    """Return the files step-N.safetensors of a folder, oldest first."""
    steps = {path: _STEP_NAME.fullmatch(path.name) for path in folder.glob(f"step-*{SUFFIX}")}
    return sorted((path for path, match in steps.items() if match), key=lambda path: int(path.stem[5:]))


def step_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}{SUFFIX}"


def resolve_checkpoint(path: Path) -> Path:
    """Return the checkpoint file of a path: the file itself, or the best checkpoint of a run folder.

    The best one has the lowest validation loss; a run without validation has only its latest. The folder may
    also be the `checkpoints` of a run folder, or any other with checkpoints.
    Raises CheckpointError if a folder holds no checkpoint.
    """
    best = _checkpoint_folder(path) / BEST
    return best if path.is_dir() and best.is_file() else latest_checkpoint(path)


def latest_checkpoint(path: Path) -> Path:
    """Return the checkpoint file of a path: the file itself, or the one of the highest step in a folder.

    Raises CheckpointError if a folder holds no checkpoint.
    """
    if not path.is_dir():
        return path
    checkpoints = step_checkpoints(_checkpoint_folder(path))
    if not checkpoints:
        raise CheckpointError(f"{path} holds no checkpoint ({BEST} or step-*{SUFFIX}).")
    return checkpoints[-1]


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder of a path: the folder itself, its `checkpoints`, or a checkpoint in them.

    For a checkpoint elsewhere it is the parent folder.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def require_same_model(header: Header, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the keys, if `config["model"]` differs from the checkpoint."""
    differences = setting_differences(header.config.get("model", {}), config.get("model", {}), prefix="model")
    if differences:
        raise CheckpointError(
            f"The checkpoint {header.path} is of another model: {'; '.join(differences)}. "
            "Restore these values, or start a new run in another folder."
        )


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones once."""
    persistent = model.state_dict()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in persistent}


def _checkpoint_folder(path: Path) -> Path:
    return path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    with _readable(path):
        metadata, tensors = read_tensors(path)
        return _header(path, metadata), tensors


def _header(path: Path, metadata: Mapping[str, str]) -> Header:
    if "format_version" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of Helixwave.")
    try:
        version = int(metadata["format_version"])
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"The checkpoint {path} has format version {version}, but this Helixwave reads versions up "
                f"to {FORMAT_VERSION}. Update Helixwave to use it."
            )
        header = Header(path, json.loads(metadata["config"]), json.loads(metadata["progress"]))
        is_complete = isinstance(header.config, dict) and header.step >= 0
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"bad header, {type(error).__name__} {error}") from error
    if not is_complete:
        raise _damaged(path, "bad header")
    return header


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert the errors of a file that is missing, unreadable, damaged or of another kind."""
    try:
        yield
    except DamagedError as error:
        if kind := _kind(path):
            raise CheckpointError(
                f"{path} is {kind}, not a checkpoint of Helixwave. Name a run folder or one of its "
                f"{CHECKPOINTS}/*{SUFFIX}."
            ) from error
        raise CheckpointError(f"The checkpoint {error} {_REMEDY}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path}.") from error
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({error.strerror or error}). Check the path and its "
            "permissions."
        ) from error


def _kind(path: Path) -> str | None:
    """Return the kind of a file that is no safetensors file, by its first bytes; None if unknown."""
    with path.open("rb") as file:
        start = file.read(16)
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"The checkpoint {path} is truncated or damaged ({reason}). {_REMEDY}")


def require_same_tensors(path: Path, stored: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise CheckpointError if the names or shapes of the stored tensors differ from the model's."""
    own = model_tensors(model)
    problems = [f"{name} is missing there" for name in own.keys() - stored.keys()]
    problems += [f"{name} is not in this model" for name in stored.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(stored[name].shape)} there and {tuple(own[name].shape)} here"
        for name in own.keys() & stored.keys()
        if own[name].shape != stored[name].shape
    ]
    if problems:
        text = "; ".join(sorted(problems)[:10]) + (f"; and {len(problems) - 10} more" * (len(problems) > 10))
        raise CheckpointError(f"The checkpoint {path} is of another model: {text}.")


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Load the stored moments into an optimizer on any device; its hyperparameters do not change."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        by_name.setdefault(name, {})[key] = tensor
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: by_name[name] for index, name in enumerate(order) if name in by_name}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
