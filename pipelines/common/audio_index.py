"""Where sampled waveforms go: WAV files, the index that ranks them, and the state of an unfinished run."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.storage.atomic import replaced_atomically
from pipelines.common.sampling_state import require_same

Row = dict[str, Any]
"""A sample in the index: rank, file, sample, label, seconds, log_likelihood, bits_per_sample."""


@dataclass(frozen=True)
class SampleFiles:
    """The files of a sampling run; the state is there while it is not finished."""

    samples: list[Path]
    index: Path
    state: Path


def sample_files(output: Path, count: int) -> SampleFiles:
    """One .wav file by its name with the others beside it, or a folder of `count`."""
    if output.suffix == ".wav":
        return SampleFiles(
            [output], output.with_suffix(".json"), output.with_name(f"{output.stem}.state.safetensors")
        )
    names = [output / f"sample_{number:05d}.wav" for number in range(count)]
    return SampleFiles(names, output / "samples.json", output / "samples.state.safetensors")


def begin_output(output: Path, files: SampleFiles, resume: bool) -> None:
    """Make the folder. Raises ValueError for an output that is taken, unless it is resumed, or cannot be."""
    is_file = output.suffix == ".wav"
    if is_file:
        taken = next((path for path in (output, files.state, files.index) if path.exists()), None)
    else:
        taken = output if output.is_dir() and any(output.iterdir()) else None
    if taken is not None and not resume:
        raise ValueError(
            f"{taken} is already there{'' if is_file else ' and not empty'}. Give resume=true to continue "
            "the run that wrote it, or choose another output."
        )
    try:
        files.index.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output} cannot be made ({error.strerror}): choose another name, or change its permissions."
        ) from error


def ranked_rows(
    files: Sequence[Path], labels: Sequence[str | None], log_likelihood: Tensor, length: int, rate: int
) -> list[Row]:
    """The rows of samples of `length`, the most likely first; log_likelihood (samples,) in nats."""
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
    """Write the settings and the rows, a line each, as JSON that is whole or absent."""
    head = json.dumps(dict(settings), indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    with replaced_atomically(path) as temporary:
        temporary.write_text(f'{head},\n "samples": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read_index(path: Path, settings: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of an index. Raises ValueError if it is no index, or was written with other settings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.pop("samples")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the index of a sampling run ({error}).") from error
    if settings is not None:
        require_same(settings, content, path)
    return rows
