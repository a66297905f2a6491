"""Write one HTML page to listen to clips of several models; it contains the sound and needs no network.

    python -m pipelines.audio_listen folders=[runs/digits/samples]
    python -m pipelines.audio_listen folders=[runs/mamba/samples,runs/wavenet/samples] output=page.html
    python -m pipelines.audio_listen folders=[runs/audio_evaluation]

A folder of audio files is one model; likelihoods come from the samples.json of audio_sample if there is one.
A run folder of audio_evaluate contributes all its WAV files with their classes, and its metrics.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from audio.data.clips import audio_files
from audio.data.sample_index import read_index
from audio.data.waveform import RATE, Waveform, read_recording
from audio.evaluation.report import ALL, METRICS, REPORT, read_report
from audio.evaluation.sources import CLIP_TABLE, INDEX, read_clip_table
from audio.listening.page import ListeningClip, Summary, listening_page
from audio.metrics.bootstrap import Estimate
from core.storage.atomic import replaced_atomically
from pipelines.common.cli import command
from pipelines.common.config import parse_config

ENDS = ("low", "high")
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Config:
    folders: list[str] = field(
        metadata={"help": "folders of audio files, one per model, or run folders of audio_evaluate, as [a,b]"}
    )
    output: str = field(default="listening.html", metadata={"help": "HTML file to write"})
    title: str = field(default="Listening", metadata={"help": "title of the page"})
    count: int = field(default=50, metadata={"help": "largest number of clips of each model, evenly spaced"})

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("folders is empty. Give at least one, as folders=[a,b].")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1.")
        if Path(self.output).is_dir():
            raise ValueError(
                f"output={self.output} is a folder. Give the name of the page, such as page.html."
            )


class ClipFile(NamedTuple):
    """Clip before its file is read. fields: further fields of its ListeningClip."""

    model: str
    path: Path
    fields: dict[str, Any]


class Contents(NamedTuple):
    """Contribution of a folder to a page: clips, cells of the summary table by model, and a description."""

    clips: list[ClipFile]
    metrics: dict[str, dict[str, str]]
    description: str


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_listen", __doc__ or "")
    clips = listen(config)
    models = len({clip.model for clip in clips})
    size = Path(config.output).stat().st_size / 1e6
    print(f"Wrote {len(clips):,} clip(s) of {models} model(s) to {config.output}, {size:.1f} MB.")


def listen(config: Config) -> list[ListeningClip]:
    """Write the page of a configuration atomically, and return its clips."""
    folders = [
        folder_contents(Path(folder), name, config.count, is_alone=len(config.folders) == 1)
        for folder, name in zip(config.folders, model_names(config.folders), strict=True)
    ]
    files = [clip for folder in folders for clip in folder.clips]
    clips = [
        ListeningClip(clip.model, clip.path.stem, waveform, **clip.fields)
        for clip, waveform in zip(files, read_at_one_rate([clip.path for clip in files]), strict=True)
    ]
    metrics = {model: cells for folder in folders for model, cells in folder.metrics.items()}
    descriptions = [folder.description for folder in folders if folder.description]
    facts = [f"{len(clips):,} clips, {RATE:,} samples per second.", *descriptions]
    page = listening_page(clips, config.title, " ".join(facts), summary(clips, metrics))
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(Path(config.output)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return clips


def folder_contents(folder: Path, name: str, count: int, is_alone: bool) -> Contents:
    """Return at most `count` clips of a folder's model, or of each source of an evaluation.

    name: name of the model. The sources of an evaluation have their own names, with `name` as prefix
    unless `is_alone`: the folder is the only one on the page.
    """
    if not (folder / REPORT).is_file():
        return Contents(evenly_spaced(folder_clips(folder, name), count), {}, "")
    evaluation = read_report(folder)
    prefix = "" if is_alone else f"{name}: "
    sources = {prefix + source["name"]: source for source in evaluation["sources"]}
    clips = [
        clip
        for model, source in sources.items()
        for clip in evenly_spaced(source_clips(folder, source["folder"], model), count)
    ]
    metrics = {model: metric_cells(source) for model, source in sources.items()}
    return Contents(clips, metrics, prefix + evaluation_facts(evaluation))


def model_names(folders: Sequence[str]) -> list[str]:
    """Return the distinct parts of paths: a and b for runs/a/samples and runs/b/samples.

    A single folder keeps its path. Raises ValueError if a folder is repeated.
    """
    paths = [Path(folder).resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("folders names the same folder twice. Give each folder once.")
    if len(paths) == 1:
        return [Path(folders[0]).as_posix()]
    while min(map(len, paths)) > 1 and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    while min(map(len, paths)) > 1 and len({path[-1] for path in paths}) == 1:
        paths = [path[:-1] for path in paths]
    return ["/".join(path) for path in paths]


def folder_clips(folder: Path, model: str) -> list[ClipFile]:
    """Return the clips of a folder of audio files, with labels and bits from its index if it has one.

    Raises FileNotFoundError for a missing folder, and ValueError for no audio or a damaged index.
    """
    samples = read_index(folder / INDEX) if (folder / INDEX).is_file() else []
    fields = {row["file"]: {"label": row["label"], "bits": row["bits_per_sample"]} for row in samples}
    return [ClipFile(model, folder / name, fields.get(name, {})) for name in audio_files(folder)]


def source_clips(run: Path, source: str, model: str) -> list[ClipFile]:
    """Return the clips of a source of audio_evaluate that have a WAV file."""
    return [
        ClipFile(
            model,
            run / row["file"],
            {
                "predicted": row["class"],
                "confidence": float(row["confidence"]),
                "label": row["label"] or None,
                "bits": float(row["bits_per_sample"]) if row.get("bits_per_sample") else None,
            },
        )
        for row in read_clip_table(run / source / CLIP_TABLE)
        if row["file"]
    ]


def evenly_spaced(clips: list[ClipFile], count: int) -> list[ClipFile]:
    """Return at most `count` clips, evenly spaced from the first to the last.

    The number is that of an integer step, but the spacing is not an integer: the classes of samples
    alternate, so an integer step could skip classes.
    """
    if not clips:
        return []
    step = -(-len(clips) // count)
    indices = np.linspace(0, len(clips) - 1, -(-len(clips) // step)).round().astype(int)
    return [clips[index] for index in indices]


def read_at_one_rate(paths: Sequence[Path]) -> list[Waveform]:
    """Read the waveforms of files of one sample rate.

    Raises ValueError for an unreadable file, and for different rates: they would sound like a difference
    between models.
    """
    recordings = [read_recording(path) for path in paths]
    for path, recording in zip(paths, recordings, strict=True):
        if recording.rate != recordings[0].rate:
            raise ValueError(
                f"{path} has {recording.rate:,} samples per second, but {paths[0]} has "
                f"{recordings[0].rate:,}. Convert them to one rate."
            )
    return [recording.waveform for recording in recordings]


def summary(clips: Sequence[ListeningClip], metrics: Mapping[str, Mapping[str, str]]) -> Summary:
    """Return a row per model: number of clips and bits on the page, then the metrics of an evaluation."""
    rows = {}
    for model in dict.fromkeys(clip.model for clip in clips):
        own = [clip for clip in clips if clip.model == model]
        bits = [clip.bits for clip in own if clip.bits is not None]
        cells = {"clips": f"{len(own):,}", "bits per sample": f"{fmean(bits):.3f}" if bits else ""}
        rows[model] = cells | dict(metrics.get(model, {}))
    return rows


def evaluation_facts(evaluation: Mapping[str, Any]) -> str:
    """Return sentences that explain the classes and the intervals of an evaluation."""
    accuracy = evaluation["classifier"]["test_accuracy"]
    return (
        f"A classifier predicts the classes; it is right on {accuracy:.1%} of the test clips of "
        f"{evaluation['data']['name']}. The value after {PLUS_MINUS} is half the 95 % interval."
    )


def metric_cells(source: Mapping[str, Any]) -> dict[str, str]:
    """Return the metrics of all clips of a source as texts; JSON stores infinity as a text."""
    metrics = source["selections"][ALL]
    bits = source["nll_bits"]
    cells = {"measured": f"{metrics['clips']:,}", "test NLL": "" if bits is None else f"{bits:.3f}"}
    for key, name in METRICS.items():
        if key in metrics:
            low, high = (None if metrics[key][end] is None else float(metrics[key][end]) for end in ENDS)
            cells[name] = estimate_text(Estimate(float(metrics[key]["value"]), low, high))
    return cells


def estimate_text(estimate: Estimate) -> str:
    """Return a value with half its interval, to two digits of the latter: 587 ± 62, 7.92 ± 0.11."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    half = (estimate.high - estimate.low) / 2
    digits = min(3, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{estimate.value:,.{digits}f} {PLUS_MINUS} {half:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
