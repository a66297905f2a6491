"""Saved state of an unfinished sampling run: one safetensors file, written atomically.

Tensors: `log_likelihood` (count,) float64, and `decoder.<name>` of the current batch. The header has the
settings and the progress of the run as JSON. Reading the file executes no code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from core.settings import setting_differences
from core.storage.tensors import read_tensors, write_tensors

DECODER = "decoder."


class SavedState(NamedTuple):
    """Progress of a sampling run.

    first: number of complete samples, which is the index of the first sample of the current batch.
    position: tokens per sample of the current batch so far.
    batch_size: maximum number of samples per batch.
    log_likelihood: (count,) float64, nats of each sample so far.
    decoder: state_dict of the decoder of the current batch.
    """

    first: int
    position: int
    batch_size: int
    log_likelihood: Tensor
    decoder: dict[str, Tensor]


def save_state(path: Path, settings: Mapping[str, Any], state: SavedState) -> None:
    """Replace the state in `path` atomically. Raises OSError if the disk fails."""
    tensors = {"log_likelihood": state.log_likelihood}
    tensors |= {f"{DECODER}{name}": tensor for name, tensor in state.decoder.items()}
    progress = {"first": state.first, "position": state.position, "batch_size": state.batch_size}
    header = {"settings": json.dumps(settings), "progress": json.dumps(progress)}
    write_tensors(path, tensors, header)


def load_state(path: Path, settings: Mapping[str, Any]) -> SavedState | None:
    """Return the state in a file, or None if the file does not exist.

    Raises ValueError if the file is damaged or its settings differ.
    """
    if not path.exists():
        return None
    try:
        header, tensors = read_tensors(path)
        stored, progress = json.loads(header["settings"]), json.loads(header["progress"])
        log_likelihood = tensors.pop("log_likelihood")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The state {path} is damaged ({error}). Delete it and the unfinished samples to start again."
        ) from error
    require_same(settings, stored, path)
    decoder = {name.removeprefix(DECODER): tensor for name, tensor in tensors.items()}
    return SavedState(log_likelihood=log_likelihood, decoder=decoder, **progress)


def require_same(settings: Mapping[str, Any], stored: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError with the keys that differ between the settings and those stored in `path`."""
    differences = setting_differences(stored, settings)
    if differences:
        raise ValueError(
            f"{path} is from a run with other settings: {'; '.join(differences)}. Restore these values to "
            "continue it, or choose another output."
        )
