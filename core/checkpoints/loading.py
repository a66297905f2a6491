"""Trained models from checkpoints, checked against the stored shapes before memory is allocated."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from core.checkpoints.checkpoint import (
    CheckpointError,
    load_weights,
    read_header,
    require_same_tensors,
)

Model = TypeVar("Model", bound=nn.Module)
_COUNTS = ("n_layer", "n_stack")  # each of them has tensors of its own
_MORE = 1000  # counts of other kinds of models may stand in a configuration


def load_trained(path: Path, build: Callable[[], Model]) -> Model:
    """Return the model that `build` makes from the header of a checkpoint, with its weights, on the CPU.

    Raises CheckpointError if the header describes no model, or another than that of the tensors.
    """
    stored = _stored_shapes(path)
    for key, count in _counts(read_header(path).config):
        if count > len(stored) + _MORE:
            raise CheckpointError(
                f"The checkpoint {path} has {key} {count:,} in its header, but holds only {len(stored):,} "
                "tensors. Its header is damaged; use another checkpoint."
            )
    try:
        with torch.device("meta"):
            shape: nn.Module = build()
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The header of the checkpoint {path} does not describe a model ({reason}). Use another "
            "checkpoint or the version of Helixwave that wrote it."
        ) from error
    require_same_tensors(path, stored, shape)
    model = build()
    load_weights(path, model)
    return model.eval()


def _stored_shapes(path: Path) -> dict[str, Tensor]:
    """Return tensors without memory of the stored names and shapes of a model."""
    read_header(path)
    prefix = "model."
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        shapes = {name.removeprefix(prefix): file.get_slice(name).get_shape() for name in names}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _counts(config: Any) -> Iterator[tuple[str, int]]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key in _COUNTS and isinstance(value, int | float):
                yield key, int(value)
            yield from _counts(value)
