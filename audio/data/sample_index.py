"""Output of a sampling run: WAV files, and the index that ranks them by likelihood."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.decoding.sampling_state import require_same
from core.storage.atomic import replaced_atomically

Row = dict[str, Any]
"""Sample in the index: rank, file, sample, label, seconds, log_likelihood, bits_per_sample."""


@dataclass(frozen=True)
class SampleFiles:
    """Files of a sampling run; the state exists while the run is unfinished."""

    samples: list[Path]
    index: Path
    state: Path


def sample_files(output: Path, count: int) -> SampleFiles:
    """Return the files of an output: one .wav file, or a folder with `count` of them."""
    if output.suffix == ".wav":
        return SampleFiles(
            [output], output.with_suffix(".json"), output.with_name(f"{output.stem}.state.safetensors")
        )
    names = [output / f"sample_{number:05d}.wav" for number in range(count)]
    return SampleFiles(names, output / "samples.json", output / "samples.state.safetensors")


def create_output(output: Path, files: SampleFiles, resume: bool) -> None:
    """Create the folder. Raises ValueError for an existing output, unless resumed, or an impossible path."""
    is_file = output.suffix == ".wav"
    if is_file:
        existing = next((path for path in (output, files.state, files.index) if path.exists()), None)
    else:
        existing = output if output.is_dir() and any(output.iterdir()) else None
    if existing is not None and not resume:
        raise ValueError(
            f"{existing} already exists{'' if is_file else ' and is not empty'}. Set resume=true to continue "
            "its run, or choose another output."
        )
    try:
        files.index.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output} cannot be created ({error.strerror}). Choose another path, or change its permissions."
        ) from error


def ranked_rows(
    files: Sequence[Path], labels: Sequence[str | None], log_likelihood: Tensor, length: int, rate: int
) -> list[Row]:
    """Return the rows of the samples, the most likely first.

    length: samples per file without the prompt. log_likelihood: (files,), in nats.
    """
    nats = log_likelihood.tolist()
    order = sorted(range(len(nats)), key=lambda number: -nats[number])
    return [
        {
            "rank": rank,
            "file": files[number].name,
            "sample": number,
            "label": labels[number % len(labels)],
            "seconds": round(length / rate, 6),
            "log_likelihood": round(nats[number], 3),
            "bits_per_sample": round(-nats[number] / math.log(2) / length, 6),
        }
        for rank, number in enumerate(order, 1)
    ]


def write_index(path: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the settings and one line per row as JSON, atomically."""
    head = json.dumps(dict(settings), indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    with replaced_atomically(path) as temporary:
        temporary.write_text(f'{head},\n "samples": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read_index(path: Path, settings: Mapping[str, Any] | None = None) -> list[Row]:
    """Return the rows of an index. Raises ValueError for another kind of file or for other settings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.pop("samples")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not the index of a sampling run ({error}). Choose the output of audio_sample."
        ) from error
    if settings is not None:
        require_same(settings, content, path)
    return rows
