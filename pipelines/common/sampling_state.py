"""The saved state of a sampling run: one safetensors file beside what it writes, whole or absent.

Tensors are `log_likelihood` (count,) float64 and `decoder.<name>` of the batch that is being drawn. The
header carries the settings of the run and how far it has come, as JSON; nothing is executed when it is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.settings import setting_differences
from core.storage.atomic import replaced_atomically

DECODER = "decoder."


class SavedState(NamedTuple):
    """How far a run has come: samples before `first` are done, those of the batch have `position` tokens."""

    first: int
    position: int
    batch_size: int
    log_likelihood: Tensor
    decoder: dict[str, Tensor]


def save_state(path: Path, settings: Mapping[str, Any], state: SavedState) -> None:
    """Write the state; `path` holds either all of it or what it held before. OSError if the disk fails."""
    tensors = {"log_likelihood": state.log_likelihood}
    tensors |= {f"{DECODER}{name}": tensor.cpu().contiguous() for name, tensor in state.decoder.items()}
    progress = {"first": state.first, "position": state.position, "batch_size": state.batch_size}
    header = {"settings": json.dumps(settings), "progress": json.dumps(progress)}
    try:
        with replaced_atomically(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except SafetensorError as error:
        raise OSError(f"The state {path} could not be written ({error}): free some space.") from error


def load_state(path: Path, settings: Mapping[str, Any]) -> SavedState | None:
    """The state in a file, None where there is none.

    Raises ValueError if it is damaged or of a run with other settings.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stored, progress = json.loads(header["settings"]), json.loads(header["progress"])
        log_likelihood = tensors.pop("log_likelihood")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The state {path} is damaged ({error}). Delete it, and what was drawn, to begin again."
        ) from error
    require_same(settings, stored, path)
    decoder = {name.removeprefix(DECODER): tensor for name, tensor in tensors.items()}
    return SavedState(log_likelihood=log_likelihood, decoder=decoder, **progress)


def require_same(settings: Mapping[str, Any], stored: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError, naming the keys, unless the settings are those that `path` was written with."""
    differences = setting_differences(stored, settings)
    if differences:
        raise ValueError(
            f"{path} is of a run with other settings: {'; '.join(differences)}. Give them their old values "
            "to continue it, or choose another output."
        )
