"""Measure whether a model of waveforms uses its context: the same samples, predicted from more and more.

    python -m pipelines.audio_length checkpoint=runs/youtubemix
    python -m pipelines.audio_length checkpoint=runs/youtubemix split=test lengths=[8192,65536,958464]

Held-out clips are cut into windows of the longest length. Only the last samples of each are scored, and they
are the same ones at every length: a sequence of a shorter length is the end of its window. Nothing else
differs, whereas in the paper's curve (Gu and Dao 2023, figure 7) the predicted samples and the normalisation
of each clip do as well. Writes length_curve.json and length_curve.png into the run folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from audio.data.pack import PackedAudio
from audio.data.windows import Windows, whole_windows
from audio.evaluation.likelihood import likelihood
from audio.evaluation.plots import draw_lengths
from core.checkpoints.checkpoint import run_folder_of
from core.storage.atomic import write_json
from core.training import World, distributed_world
from pipelines.common.audio_data import (
    AudioCheckpoint,
    evenly_spaced,
    open_audio_data,
    trained_data,
    trained_model,
)
from pipelines.common.cli import command
from pipelines.common.config import parse_config

TABLE, PICTURE = "length_curve.json", "length_curve.png"


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": "a run folder (its latest checkpoint), or a checkpoint file"})
    folder: str | None = field(
        default=None, metadata={"help": "where the clips of the run are now; null: where they were"}
    )
    split: Literal["valid", "test"] = field(default="valid", metadata={"help": "clips that are read"})
    lengths: list[int] = field(
        default_factory=list,
        metadata={"help": "of sequences, in samples; none: doubled from `scored` to the longest clip"},
    )
    scored: int = field(default=1024, metadata={"help": "last samples of each window, which are scored"})
    windows: int | None = field(
        default=64, metadata={"help": "windows that are read, evenly spaced; null: all"}
    )
    output: str | None = field(
        default=None, metadata={"help": "folder of table and picture; null: the run folder"}
    )

    def __post_init__(self) -> None:
        if self.scored < 1:
            raise ValueError(f"scored is {self.scored}; it must be at least 1.")
        if self.windows is not None and self.windows < 1:
            raise ValueError(f"windows is {self.windows}; it must be at least 1, or null for all.")
        if self.lengths and min(self.lengths) < self.scored:
            raise ValueError(
                f"lengths has {min(self.lengths)}, which does not hold the {self.scored} scored samples."
            )


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_length", __doc__ or "")
    checkpoint = Path(config.checkpoint)
    with distributed_world() as world:
        trained = trained_model(checkpoint, world.device)
        data = trained_data(checkpoint)
        audio = open_audio_data(replace(data, folder=config.folder or data.folder), world).packed
        lengths = sorted(config.lengths) or doubled(audio, config.split, config.scored)
        windows = evenly_spaced(whole_windows(audio, config.split, lengths[-1]), config.windows)
        rows = curve(trained, audio, windows, lengths, config.scored, world)
        if world.is_rank_0:
            write(rows, audio, config, Path(config.output or run_folder_of(checkpoint)))


def doubled(audio: PackedAudio, split: str, scored: int) -> list[int]:
    """Lengths scored, 2 * scored, ... that fit into the longest clip of a split.

    Raises ValueError where not even the first does.
    """
    longest = max((clip.length for clip in audio.clips if clip.split == split), default=0)
    if longest < scored:
        raise ValueError(
            f"The longest {split} clip of {audio.name} has {longest:,} samples, fewer than scored={scored}."
        )
    return [scored << power for power in range((longest // scored).bit_length())]


def curve(
    trained: AudioCheckpoint,
    audio: PackedAudio,
    windows: Windows,
    lengths: Sequence[int],
    scored: int,
    world: World,
) -> list[dict[str, Any]]:
    """A row a length: the bits of the last `scored` samples of all windows in sequences of that length."""
    rows = []
    with tqdm(total=len(lengths) * len(windows), unit=" windows", disable=not world.is_rank_0) as bar:
        for length in lengths:
            ends = last_samples(windows, length)
            told = bool(trained.classes)
            measured = likelihood(
                trained.model, audio, ends, world, told, unscored=length - scored, advance=bar.update
            )
            rows.append(
                {"length": length, "bits_per_sample": measured.bits, "samples": sum(measured.samples)}
            )
    return rows


def last_samples(windows: Windows, length: int) -> Windows:
    """The last `length` samples of each window."""
    starts = windows.starts + windows.lengths - length
    return Windows(starts, np.full_like(starts, length), windows.labels)


def write(rows: Sequence[dict[str, Any]], audio: PackedAudio, config: Config, output: Path) -> None:
    """Print the table, and leave it and its picture in a folder."""
    content = {
        "data": audio.name,
        "quantizer": audio.quantizer,
        "split": config.split,
        "scored": config.scored,
        "rows": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / TABLE, content)
    draw_lengths(rows, config.scored, output / PICTURE)
    print(f"{'length':>9}  bits per sample of the last {config.scored:,} samples")
    print("\n".join(f"{row['length']:>9,}  {row['bits_per_sample']:.4f}" for row in rows))
    print(f"{output} holds {TABLE} and {PICTURE}.")


if __name__ == "__main__":
    sys.exit(main())
