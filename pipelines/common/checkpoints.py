"""Checkpoint of a script: the key `checkpoint` names a file or a run folder."""

import os
import sys
from pathlib import Path

from core.checkpoints.checkpoint import read_header, resolve_checkpoint

CHECKPOINT = "checkpoint file, or run folder (its best checkpoint, or the latest if it has no best)"
"""Help of the key `checkpoint`."""


def chosen_checkpoint(checkpoint: str) -> Path:
    """Return the checkpoint file of the key `checkpoint`; name it on stderr, on rank 0.

    Raises CheckpointError if there is no checkpoint or its header cannot be read.
    """
    path = resolve_checkpoint(Path(checkpoint))
    step = read_header(path).progress.get("step")
    if os.environ.get("RANK", "0") == "0":
        print(f"Reading the checkpoint {path}{'' if step is None else f' (step {step:,})'}.", file=sys.stderr)
    return path
