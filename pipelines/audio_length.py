"""Measure the benefit of context: bits of the same samples, predicted from longer and longer sequences.

    python -m pipelines.audio_length checkpoint=runs/youtubemix
    python -m pipelines.audio_length checkpoint=runs/youtubemix split=test lengths=[8192,65536,958464]

Held-out clips are divided into windows of the greatest length. Only the last samples of each window are
scored, and they are the same at every length: a shorter sequence is the end of its window. In the paper's
curve (Gu and Dao 2023, figure 7) the scored samples and the normalisation of clips differ with the length.
Writes length_curve.json and length_curve.png into the run folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from audio.data.config import open_audio_data
from audio.data.pack import PackedAudio
from audio.data.windows import Windows, evenly_spaced, whole_windows
from audio.evaluation.likelihood import likelihood
from audio.evaluation.plots import draw_lengths
from audio.models import AudioCheckpoint, trained_model, training_data_config
from core.checkpoints.checkpoint import run_folder_of
from core.storage.atomic import write_json
from core.training import World, distributed_world
from pipelines.common.cli import command
from pipelines.common.config import parse_config

TABLE, PICTURE = "length_curve.json", "length_curve.png"


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": "checkpoint file, or run folder (its best checkpoint)"})
    folder: str | None = field(
        default=None,
        metadata={"help": "present folder of the clips of the run; null: folder in its configuration"},
    )
    split: Literal["valid", "test"] = field(default="valid", metadata={"help": "split of the clips"})
    lengths: list[int] = field(
        default_factory=list,
        metadata={"help": "sequence lengths (samples); empty: `scored` doubled up to the longest clip"},
    )
    scored: int = field(default=1024, metadata={"help": "number of scored samples at the end of each window"})
    windows: int | None = field(default=64, metadata={"help": "number of evenly spaced windows; null: all"})
    output: str | None = field(
        default=None, metadata={"help": "folder of table and plot; null: the run folder"}
    )

    def __post_init__(self) -> None:
        if self.scored < 1:
            raise ValueError(f"scored is {self.scored}; it must be at least 1.")
        if self.windows is not None and self.windows < 1:
            raise ValueError(f"windows is {self.windows}; it must be at least 1, or null for all.")
        if self.lengths and min(self.lengths) < self.scored:
            raise ValueError(
                f"lengths contains {min(self.lengths)}, less than scored={self.scored}. Reduce scored, or "
                "remove that length."
            )


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_length", __doc__ or "")
    checkpoint = Path(config.checkpoint)
    with distributed_world() as world:
        trained = trained_model(checkpoint, world.device)
        data = training_data_config(checkpoint)
        audio = open_audio_data(replace(data, folder=config.folder or data.folder), world).packed
        lengths = sorted(config.lengths) or doubled_lengths(audio, config.split, config.scored)
        windows = evenly_spaced(whole_windows(audio, config.split, lengths[-1]), config.windows)
        rows = length_curve(trained, audio, windows, lengths, config.scored, world)
        if world.is_rank_0:
            write_curve(rows, audio, config, Path(config.output or run_folder_of(checkpoint)))


def doubled_lengths(audio: PackedAudio, split: str, scored: int) -> list[int]:
    """Return the lengths scored, 2 * scored, ..., up to the longest clip of a split.

    Raises ValueError if the longest clip is shorter than `scored`.
    """
    longest = max((clip.length for clip in audio.clips if clip.split == split), default=0)
    if longest < scored:
        raise ValueError(
            f"The longest {split} clip of {audio.name} has {longest:,} samples, fewer than scored={scored}. "
            "Reduce scored."
        )
    return [scored << power for power in range((longest // scored).bit_length())]


def length_curve(
    trained: AudioCheckpoint,
    audio: PackedAudio,
    windows: Windows,
    lengths: Sequence[int],
    scored: int,
    world: World,
) -> list[dict[str, Any]]:
    """Return one row per length: bits of the last `scored` samples of all windows, in sequences so long."""
    rows = []
    with tqdm(total=len(lengths) * len(windows), unit=" windows", disable=not world.is_rank_0) as bar:
        for length in lengths:
            ends = last_samples(windows, length)
            measured = likelihood(
                trained.model,
                audio,
                ends,
                world,
                bool(trained.classes),
                unscored=length - scored,
                advance=bar.update,
            )
            rows.append(
                {"length": length, "bits_per_sample": measured.bits, "samples": sum(measured.samples)}
            )
    return rows


def last_samples(windows: Windows, length: int) -> Windows:
    """Return the last `length` samples of each window."""
    starts = windows.starts + windows.lengths - length
    return Windows(starts, np.full_like(starts, length), windows.labels)


def write_curve(rows: Sequence[dict[str, Any]], audio: PackedAudio, config: Config, output: Path) -> None:
    """Print the table, and write it and its plot into a folder."""
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
    print(f"{TABLE} and {PICTURE} are in {output}.")


if __name__ == "__main__":
    sys.exit(main())
